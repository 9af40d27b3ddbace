//! A QR code for a terminal.

use qrcode::render::unicode::Dense1x2;
use qrcode::{EcLevel, QrCode};

/// `text` as a QR code of half blocks, dark on light whatever the terminal's colours; empty for a text that is too long.
pub(super) fn half_blocks(text: &str) -> String {
    // The lowest error correction gives the largest modules: a screen has no dirt and no folds.
    let Ok(code) = QrCode::with_error_correction_level(text, EcLevel::L) else { return String::new() };
    // Terminals are mostly dark: a block in the foreground's colour is the light module.
    code.render::<Dense1x2>().dark_color(Dense1x2::Light).light_color(Dense1x2::Dark).quiet_zone(true).build()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_fits_on_a_terminal_of_24_lines() {
        let drawn = half_blocks("http://192.168.143.120:8088/");
        assert!((10..=24).contains(&drawn.lines().count()), "{drawn}");
        assert!(drawn.lines().all(|line| line.chars().count() <= 40));
    }

    #[test]
    fn a_text_beyond_any_code_draws_nothing() {
        assert_eq!(half_blocks(&"x".repeat(8_000)), "");
    }
}
