//! `casemate incidents`.

use casemate_verifier::UnixTime;

use crate::{
    args::{Format, Globals, Incidents},
    client::Client,
    context::ContextFile,
    exit::Status,
    printer,
};

pub(crate) async fn run(globals: &Globals, args: Incidents) -> anyhow::Result<Status> {
    let list = Client::new(&ContextFile::load(globals)?)?.incidents(args.node.as_deref()).await?;
    if globals.json || args.output == Format::Json {
        printer::json(&list)?;
        return Ok(Status::Ok);
    }
    let rows: Vec<Vec<String>> = list
        .incidents
        .into_iter()
        .map(|one| {
            vec![UnixTime(one.received_at_ms / 1000).to_string(), one.node, one.sequence.to_string(), printer::clean(&one.detail)]
        })
        .collect();
    printer::table(&["RECEIVED", "NODE", "LINE", "WHAT"], &rows)?;
    Ok(Status::Ok)
}
