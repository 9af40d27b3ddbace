//! Datagrams of 64 bytes at rising rates: the highest rate that loses at most one in a hundred.

use std::time::Duration;

use crate::row::Row;
use crate::site::{Error, Site};

const DATAGRAM_BYTES: f64 = 64.0;
/// Datagrams a second, thousands. iperf3 itself sends 50 to 100 on two cores.
const RATES_KPPS: [f64; 9] = [5.0, 10.0, 20.0, 35.0, 50.0, 75.0, 100.0, 150.0, 200.0];
const LOSS_PERCENT_MAX: f64 = 1.0;
/// A generator that sends less than this share of what it should is at its own limit.
const SENT_SHARE_MIN: f64 = 0.95;
/// A rate that fails gets a second chance: something else may have had the cores.
const TRIES: usize = 2;
const SLACK: Duration = Duration::from_secs(8);

/// Measures both ways. The generator's limit, where it is reached first, is told with the row.
pub(crate) fn small(site: &Site, length: Duration, row: &mut Row) {
    let mut reached = Vec::new();
    for (key, way) in [("udp64_up_kpps", &[][..]), ("udp64_down_kpps", &["--reverse"])] {
        match highest(site, length, way) {
            Ok((kpps, is_generators)) => {
                row.set(key, kpps);
                reached.push(kpps);
                if is_generators {
                    row.lacks(key, "the generator's limit");
                }
            }
            Err(error) => row.lacks(key, &error.to_string()),
        }
    }
    match reached[..] {
        [up, down] => row.set("udp64_kpps", up.min(down)),
        _ => row.lacks("udp64_kpps", "one of the ways failed"),
    }
}

/// The highest rate in thousands a second, and whether the generator could not send more.
fn highest(site: &Site, length: Duration, way: &[&str]) -> Result<(f64, bool), Error> {
    let mut reached = 0.0;
    for asked in RATES_KPPS {
        let mut passed = None;
        for _ in 0..TRIES {
            let (sent, loss_percent) = once(site, asked, length, way)?;
            if loss_percent <= LOSS_PERCENT_MAX {
                passed = Some(sent);
                break;
            }
        }
        match passed {
            Some(sent) if sent < SENT_SHARE_MIN * asked => return Ok((sent.max(reached), true)),
            Some(sent) => reached = sent,
            None => return Ok((reached, false)),
        }
    }
    Ok((reached, true))
}

/// Sends at one rate; tells what was sent, in thousands a second, and the loss.
fn once(site: &Site, kpps: f64, length: Duration, way: &[&str]) -> Result<(f64, f64), Error> {
    let rate = format!("{:.0}", kpps * 1e3 * DATAGRAM_BYTES * 8.0);
    let (seconds, size) = (length.as_secs().to_string(), DATAGRAM_BYTES.to_string());
    let args = [&["--udp", "--length", &size, "--bitrate", &rate, "--time", &seconds], way].concat();
    let told = site.iperf3(&args, length + SLACK)?;
    let sum = &told["end"]["sum"];
    let (packets, lost) = (sum["packets"].as_f64(), sum["lost_percent"].as_f64());
    let (Some(packets), Some(lost), Some(s)) = (packets, lost, sum["seconds"].as_f64()) else {
        return Err("iperf3 told no loss".into());
    };
    // A flow of which nothing came has no loss in iperf3's eyes.
    Ok((packets / s / 1e3, if packets == 0.0 { 100.0 } else { lost }))
}
