//! Masking keys (RFC 6455, 5.3): unpredictable to whoever chooses the payload.

/// Random bytes drawn at once, 4 a frame: one system call for many frames.
const STOCK_BYTES: usize = 256;

/// A stock of masking keys.
#[derive(Debug)]
pub struct Keys {
    stock: [u8; STOCK_BYTES],
    used: usize,
}

impl Default for Keys {
    fn default() -> Self {
        Self { stock: [0; STOCK_BYTES], used: STOCK_BYTES }
    }
}

impl Keys {
    /// A key that was not given out before.
    #[allow(clippy::should_implement_trait, reason = "it never ends, and nobody iterates over it")]
    pub fn next(&mut self) -> [u8; 4] {
        if self.used == STOCK_BYTES {
            if let Err(error) = getrandom::fill(&mut self.stock) {
                // Only a kernel without a random source gets here; the mask protects proxies, not the payload.
                tracing::warn!(%error, "no random bytes for masking keys");
            }
            self.used = 0;
        }
        let key = std::array::from_fn(|i| self.stock[self.used + i]);
        self.used += 4;
        key
    }
}
