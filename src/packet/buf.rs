//! A buffer of a pool: one packet's memory, with room in front of it, and who is charged for it.

use std::fmt;
use std::sync::Arc;

use super::pool::BufPool;
use crate::account::Account;

/// Free bytes kept in front of a packet, so that a link header (14), a virtio-net header (12), or a capsule and
/// WebSocket header (8 + 1 + 14) is put there without moving the packet.
pub const HEADROOM_BYTES: usize = 64;

/// One packet's memory: a window (`start..end`) on a pooled allocation, with room in front and behind.
pub struct Buf {
    data: Box<[u8]>,
    start: usize,
    end: usize,
    class: usize,
    pool: BufPool,
    charge: Option<Charge>,
}

struct Charge {
    account: Arc<Account>,
    bytes: u64,
}

impl Buf {
    /// An empty window behind its headroom. The pool has `data` back when the buffer is dropped.
    pub(super) fn new(data: Box<[u8]>, class: usize, pool: BufPool) -> Self {
        let (start, end) = (HEADROOM_BYTES, HEADROOM_BYTES);
        Self { data, start, end, class, pool, charge: None }
    }

    /// The bytes in the window.
    pub fn bytes(&self) -> &[u8] {
        &self.data[self.start..self.end]
    }

    /// The bytes in the window, to be changed in place.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.data[self.start..self.end]
    }

    /// Bytes in the window.
    pub fn len(&self) -> usize {
        self.end - self.start
    }

    /// Whether the window is empty.
    pub fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// Free bytes behind the window.
    pub fn tailroom(&self) -> usize {
        self.data.len() - self.end
    }

    /// Free bytes in front of the window.
    pub fn headroom(&self) -> usize {
        self.start
    }

    /// Memory held, whatever the window's length: what a budget counts.
    pub fn held_bytes(&self) -> usize {
        self.data.len()
    }

    /// Appends as many of `bytes` as there is room for, and returns how many.
    pub fn extend(&mut self, bytes: &[u8]) -> usize {
        let len = bytes.len().min(self.tailroom());
        self.data[self.end..self.end + len].copy_from_slice(&bytes[..len]);
        self.end += len;
        len
    }

    /// The free bytes behind the window, to be read into; [`Buf::advance`] then takes them in.
    pub fn spare_mut(&mut self) -> &mut [u8] {
        &mut self.data[self.end..]
    }

    /// Takes `len` bytes of the spare ones into the window.
    pub fn advance(&mut self, len: usize) {
        self.end = (self.end + len).min(self.data.len());
    }

    /// Shortens the window to `len` bytes from its start.
    pub fn truncate(&mut self, len: usize) {
        self.end = self.end.min(self.start + len);
    }

    /// Opens the window by `len` bytes to the front; `None` where the headroom is used up.
    pub fn prepend(&mut self, len: usize) -> Option<&mut [u8]> {
        self.start = self.start.checked_sub(len)?;
        Some(&mut self.data[self.start..self.start + len])
    }

    /// Takes `len` bytes off the front of the window.
    pub fn strip(&mut self, len: usize) {
        self.start = (self.start + len).min(self.end);
    }

    /// Charges `bytes` to `account` until this buffer is given back.
    pub fn charge(&mut self, account: &Arc<Account>, bytes: u64) {
        account.enter(bytes, self.data.len() as u64);
        self.discharge();
        self.charge = Some(Charge { account: Arc::clone(account), bytes });
    }

    /// Nobody is charged for this buffer any more: what turned round waits for another tether than the one that sent it.
    pub fn discharge(&mut self) {
        if let Some(charge) = self.charge.take() {
            charge.account.leave(charge.bytes, self.data.len() as u64);
        }
    }
}

impl Drop for Buf {
    fn drop(&mut self) {
        self.discharge();
        let data = std::mem::take(&mut self.data);
        self.pool.take_back(self.class, data);
    }
}

impl fmt::Debug for Buf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Buf").field("len", &self.len()).field("held_bytes", &self.held_bytes()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::pool::CLASS_BYTES;

    #[test]
    fn prepending_uses_the_headroom_and_no_more() {
        let pool = BufPool::new(1 << 20);
        let mut buf = pool.copy(b"packet").expect("room");
        buf.prepend(4).expect("headroom").copy_from_slice(b"head");
        assert_eq!(buf.bytes(), b"headpacket");
        buf.strip(4);
        assert_eq!(buf.bytes(), b"packet");
        assert!(buf.prepend(HEADROOM_BYTES + 1).is_none());
    }

    #[test]
    fn an_account_knows_what_is_inside_until_the_buffer_is_given_back() {
        let (pool, account) = (BufPool::new(1 << 20), Arc::new(Account::default()));
        let mut buf = pool.copy(&[0; 100]).expect("room");
        buf.charge(&account, 103);
        assert_eq!((account.inside_bytes(), account.left_bytes()), (103, 0));
        assert_eq!(account.held_bytes(), CLASS_BYTES[0] as u64);
        drop(buf);
        assert_eq!((account.inside_bytes(), account.left_bytes(), account.held_bytes()), (0, 103, 0));
        // One that turned round is nobody's, though it waits on.
        let mut turned = pool.copy(b"hello").unwrap();
        turned.charge(&account, 8);
        turned.discharge();
        assert_eq!((account.inside_bytes(), account.left_bytes(), account.held_bytes()), (0, 111, 0));
        drop(turned);
        assert_eq!(account.left_bytes(), 111, "once");
    }
}
