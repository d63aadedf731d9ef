//! `casemate audit`.

use casemate_verifier::UnixTime;

use crate::{
    args::{Audit, Format, Globals},
    client::Client,
    context::ContextFile,
    exit::Status,
    printer,
};

pub(crate) async fn run(globals: &Globals, args: Audit) -> anyhow::Result<Status> {
    let list = Client::new(&ContextFile::load(globals)?)?.audit(args.before, args.limit).await?;
    if globals.json || args.output == Format::Json {
        printer::json(&list)?;
        return Ok(Status::Ok);
    }
    let rows: Vec<Vec<String>> = list
        .lines
        .into_iter()
        .map(|line| {
            vec![
                line.seq.to_string(),
                UnixTime(line.at_ms / 1000).to_string(),
                line.account,
                line.token.unwrap_or_default(),
                line.action,
                line.target,
                line.status.map_or("unknown".to_owned(), |status| status.to_string()),
                line.detail.unwrap_or_default(),
            ]
        })
        .collect();
    printer::table(&["LINE", "TIME", "ACCOUNT", "TOKEN", "WHAT", "ON", "STATUS", "DETAIL"], &rows)?;
    if let Some(next) = list.next {
        eprintln!("older lines: --before {next}");
    }
    Ok(Status::Ok)
}
