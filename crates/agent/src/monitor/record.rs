//! What the monitor wrote down, on its way to the platform: every line, in order, until the platform has stored it.

use std::{
    fs::File,
    io::{self, BufRead as _, BufReader, Read as _, Seek as _, SeekFrom},
    path::Path,
    time::Duration,
};

use casemate_api::node::{FromNode, MonitorRecords, from_node};
use serde::Deserialize;
use tokio::{sync::mpsc, time::sleep};

use super::Monitor;
use crate::files::off_thread;

/// Most lines of one message.
const MAX_LINES: usize = 64;
/// Most bytes of lines in one message, beside the first.
const MAX_BYTES: usize = 256 << 10;
/// The monitor's limit for a line.
const MAX_LINE: u64 = 64 << 10;
/// Until a record that could not be read, or that the platform did not take, is tried again.
const PAUSE: Duration = Duration::from_secs(2);

/// A place between two lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Place {
    line: u64,
    byte: u64,
}

/// Sends all lines from the number on that `stored` says first, and clears the monitor once the platform has everything. Ends with the
/// session.
pub(crate) async fn report(monitor: Monitor, mut stored: mpsc::Receiver<u64>, out: mpsc::Sender<FromNode>) {
    let mut state = monitor.state();
    let Some(mut next) = stored.recv().await else { return };
    let mut place = Place::default();
    loop {
        let now = state.borrow_and_update().clone();
        if next >= now.records {
            if now.ended.is_some() && monitor.clear().await.is_ok() {
                tracing::info!("the platform knows what the monitor found; work may begin again");
            }
            let changed = tokio::select! {
                changed = state.changed() => changed.is_ok(),
                // While instances that it ended are being wiped.
                () = sleep(PAUSE), if now.ended.is_some() => true,
            };
            if changed { continue } else { return }
        }
        let read = off_thread(move || read_from(&now.record, place, next)).await;
        let (lines, after) = match read {
            Ok((lines, after)) if !lines.is_empty() => (lines, after),
            outcome => {
                tracing::error!(?outcome, "the monitor's record could not be read, will try again");
                sleep(PAUSE).await;
                place = Place::default();
                continue;
            }
        };
        let message = MonitorRecords { from: next, lines };
        if out.send(FromNode { message: Some(from_node::Message::Monitor(message)) }).await.is_err() {
            return;
        }
        let Some(answer) = stored.recv().await else { return };
        if answer == after.line {
            place = after;
        } else {
            tracing::error!(expected = after.line, answer, "the platform did not take the monitor's record, will try again");
            place = Place::default();
            sleep(PAUSE).await;
        }
        next = answer;
    }
}

/// Whole lines from number `next` on, and the place behind them; `near` is a place before.
fn read_from(path: &Path, near: Place, next: u64) -> io::Result<(Vec<Vec<u8>>, Place)> {
    let mut file = File::open(path)?;
    let mut place = if near.line <= next { near } else { Place::default() };
    file.seek(SeekFrom::Start(place.byte))?;
    let mut reader = BufReader::new(file);
    let (mut lines, mut bytes) = (Vec::new(), 0);
    while lines.len() < MAX_LINES && bytes < MAX_BYTES {
        let mut line = Vec::new();
        let length = (&mut reader).take(MAX_LINE + 1).read_until(b'\n', &mut line)?;
        if line.pop() != Some(b'\n') {
            break;
        }
        place = Place { line: place.line + 1, byte: place.byte + length as u64 };
        if place.line > next {
            bytes += line.len();
            lines.push(line);
        }
    }
    Ok((lines, place))
}

/// Settings that the kernel does not take back before a reboot, as the record says since the node was unsealed last.
pub(crate) fn until_reboot(path: &Path) -> io::Result<Vec<String>> {
    let mut reader = BufReader::new(File::open(path)?);
    let mut kept = Vec::new();
    loop {
        let mut line = Vec::new();
        let length = (&mut reader).take(MAX_LINE + 1).read_until(b'\n', &mut line)?;
        if length == 0 || line.last() != Some(&b'\n') {
            return Ok(kept);
        }
        let Ok(Line { event }) = serde_json::from_slice(&line) else { continue };
        match event["kind"].as_str() {
            Some("unsealed") => kept.clear(),
            Some("settings_kept") => {
                let names = event["names"].as_array().into_iter().flatten().filter_map(|name| name.as_str());
                kept.extend(names.map(str::to_owned));
            }
            _ => {}
        }
    }
}

#[derive(Deserialize)]
struct Line {
    event: serde_json::Value,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_lines_are_read_from_any_place() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("spool");
        std::fs::write(&path, "zero\none\ntwo\ncut").unwrap();
        let lines = |near, next| read_from(&path, near, next).unwrap();
        let (all, end) = lines(Place::default(), 0);
        assert_eq!(all, [b"zero".to_vec(), b"one".to_vec(), b"two".to_vec()]);
        assert_eq!(end, Place { line: 3, byte: 13 });
        assert_eq!(lines(Place::default(), 2).0, [b"two".to_vec()]);
        assert_eq!(lines(Place { line: 1, byte: 5 }, 1).0.len(), 2);
        assert_eq!(lines(end, 3), (vec![], end), "a line without an end is not there yet");
        assert_eq!(lines(end, 0).0.len(), 3, "the platform may ask for what it had");
        assert_eq!(lines(Place::default(), 9).0.len(), 0);
    }

    #[test]
    fn what_stays_until_a_reboot_is_what_was_kept_at_the_last_unsealing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("spool");
        let lines = [
            r#"{"event":{"kind":"settings_kept","names":["old"]}}"#,
            r#"{"event":{"kind":"unsealed"}}"#,
            "nonsense",
            r#"{"event":{"kind":"settings_kept","names":["a","b",1]}}"#,
            r#"{"event":{"kind":"settings_kept","names":["cut"#,
        ];
        std::fs::write(&path, lines.join("\n")).unwrap();
        assert_eq!(until_reboot(&path).unwrap(), ["a", "b"]);
        assert!(until_reboot(&folder.path().join("none")).is_err());
    }

    #[test]
    fn a_line_that_is_too_long_is_none() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("spool");
        std::fs::write(&path, vec![b'x'; 1 << 20]).unwrap();
        assert_eq!(read_from(&path, Place::default(), 0).unwrap(), (vec![], Place::default()));
    }
}
