//! `casemate notices`.

use anyhow::Context as _;
use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use casemate_api::rest::{Notice, NoticeEvidence};
use casemate_verifier::UnixTime;
use sha2::{Digest as _, Sha256};

use crate::{
    args::{Format, Globals, Notices, NoticesCommand, NoticesList},
    client::Client,
    context::ContextFile,
    exit::{Refused, Status},
    printer,
};

pub(crate) async fn run(globals: &Globals, args: Notices) -> anyhow::Result<Status> {
    let client = Client::new(&ContextFile::load(globals)?)?;
    match args.command {
        None => list(globals, &client, args.list).await,
        Some(NoticesCommand::List(asked)) => list(globals, &client, asked).await,
        Some(NoticesCommand::Show { notice, output }) => {
            let notice = client.notice(&notice).await?;
            if globals.json || output == Format::Json {
                printer::json(&notice)?
            } else {
                show(&notice)?
            }
            if let Some(evidence) = &notice.evidence {
                lines(evidence).map_err(|detail| Refused { check: "monitor.record".into(), detail })?;
            }
            Ok(Status::Ok)
        }
    }
}

async fn list(globals: &Globals, client: &Client, asked: NoticesList) -> anyhow::Result<Status> {
    let notices = client.notices(asked.instance.as_deref(), asked.before, asked.limit).await?;
    if globals.json || asked.output == Format::Json {
        printer::json(&notices)?;
        return Ok(Status::Ok);
    }
    let rows: Vec<Vec<String>> = notices
        .notices
        .into_iter()
        .map(|one| vec![one.id, time(one.at_ms), one.kind, one.project, one.node, one.instances.join(" "), one.detail])
        .collect();
    printer::table(&["NOTICE", "TIME", "KIND", "PROJECT", "NODE", "INSTANCES", "WHAT"], &rows)?;
    if let Some(next) = notices.next {
        eprintln!("older ones: --before {next}");
    }
    Ok(Status::Ok)
}

fn show(notice: &Notice) -> anyhow::Result<()> {
    let mut rows = vec![
        row("notice", &notice.id),
        row("kind", &notice.kind),
        row("what", &notice.text),
        row("detail", &notice.detail),
        row("project", &notice.project),
        row("node", &notice.node),
        row("told", &time(notice.at_ms)),
    ];
    if let Some(at_ms) = notice.node_at_ms {
        rows.push(row("by the node's clock", &time(at_ms)));
    }
    rows.extend(notice.instances.iter().map(|id| row("instance", id)));
    for ending in &notice.endings {
        let receipt = if ending.receipt.is_some() { "a receipt is there" } else { "no receipt yet" };
        let failure = ending.failure.as_ref().map_or(String::new(), |one| format!(", {}: {}", one.check, one.detail));
        rows.push(row(&format!("  {}", ending.instance), &format!("{}, {receipt}{failure}", ending.step)));
    }
    printer::table(&["FIELD", "VALUE"], &rows)?;
    let Some(evidence) = &notice.evidence else { return Ok(()) };
    println!("\nLines of the node's record, of {} that the platform had; the last one's SHA-256 is {}:", evidence.stored, {
        printer::clean(&evidence.head)
    });
    for (number, line) in (evidence.from..).zip(&evidence.lines) {
        let line = BASE64.decode(line).context("decode a line of the record")?;
        println!("{number:>6}  {}", printer::clean(&String::from_utf8_lossy(&line)));
    }
    Ok(())
}

/// The lines, if each names the one before; where the last of the record is among them, its digest is the head.
fn lines(evidence: &NoticeEvidence) -> Result<(), String> {
    let mut digest: Option<String> = None;
    for (number, line) in (evidence.from..).zip(&evidence.lines) {
        let line = BASE64.decode(line).map_err(|error| format!("line {number}: {error}"))?;
        let read: serde_json::Value = serde_json::from_slice(&line).map_err(|error| format!("line {number}: {error}"))?;
        let follows = digest.as_deref().is_none_or(|before| read["previous"] == before);
        if read["sequence"] != number || !follows {
            return Err(format!("line {number} of the notice does not follow from the line before"));
        }
        digest = Some(hex::encode(Sha256::digest(&line)));
    }
    let whole = evidence.from.saturating_add(evidence.lines.len() as u64) == evidence.stored;
    match digest {
        Some(digest) if whole && digest != evidence.head => Err("the last line is not the head of the chain".to_owned()),
        _ => Ok(()),
    }
}

fn time(at_ms: u64) -> String {
    UnixTime(at_ms / 1000).to_string()
}

fn row(field: &str, value: &str) -> Vec<String> {
    vec![field.to_owned(), value.to_owned()]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn evidence() -> NoticeEvidence {
        let first = serde_json::json!({"sequence": 4, "previous": "00"}).to_string();
        let second = serde_json::json!({"sequence": 5, "previous": hex::encode(Sha256::digest(&first))}).to_string();
        let head = hex::encode(Sha256::digest(&second));
        NoticeEvidence { from: 4, lines: vec![BASE64.encode(first), BASE64.encode(second)], stored: 6, head }
    }

    #[test]
    fn a_notice_whose_lines_are_not_one_chain_is_refused() {
        assert_eq!(lines(&evidence()), Ok(()));
        let changed: [fn(&mut NoticeEvidence); 5] = [
            |one| one.lines.swap(0, 1),
            |one| one.from = 3,
            |one| one.head = "00".into(),
            |one| one.lines[0] = BASE64.encode(br#"{"sequence":4,"previous":"01"}"#),
            |one| one.lines[1] = "?".into(),
        ];
        for (case, change) in changed.into_iter().enumerate() {
            let mut evidence = evidence();
            change(&mut evidence);
            assert!(lines(&evidence).is_err(), "case {case}");
        }
        // Lines after those that are shown have the head.
        let cut = NoticeEvidence { stored: 9, head: "00".into(), ..evidence() };
        assert_eq!(lines(&cut), Ok(()));
    }
}
