//! `casemate receipt verify`.

use std::{fs, path::Path};

use anyhow::Context as _;
use casemate_api::{receipt::Body, rest};

use crate::{
    args::{Format, Globals, Receipt, ReceiptCommand},
    client::Client,
    commands::ending,
    context::ContextFile,
    exit::Status,
    printer,
    trust::Trust,
};

/// Largest saved receipt, in bytes.
const MAX_SAVED: u64 = 1 << 20;

pub(crate) async fn run(globals: &Globals, args: Receipt) -> anyhow::Result<Status> {
    let ReceiptCommand::Verify { instance, file, output } = args.command;
    let context = ContextFile::load(globals)?;
    let trust = Trust::load(&context)?;
    let (receipt, instance) = match (file, instance) {
        (Some(file), _) => load(&file)?,
        (None, Some(instance)) => (Client::new(&context)?.receipt(&instance).await?, instance),
        (None, None) => anyhow::bail!("give an instance or --file FILE"),
    };
    let body = ending::verify(&trust, &receipt, &instance)?;
    if globals.json || output == Format::Json {
        // The whole receipt, so that it can be saved and checked again.
        printer::json(&receipt)?;
    } else {
        print(&body)?;
    }
    Ok(Status::Ok)
}

fn load(file: &Path) -> anyhow::Result<(rest::Receipt, String)> {
    let attempt = || format!("read saved receipt {}", file.display());
    anyhow::ensure!(
        fs::metadata(file).with_context(attempt)?.len() <= MAX_SAVED,
        "{} is longer than {MAX_SAVED} bytes",
        file.display()
    );
    let receipt: rest::Receipt = serde_json::from_slice(&fs::read(file).with_context(attempt)?).with_context(attempt)?;
    let body: Body = serde_json::from_str(&receipt.body).with_context(attempt)?;
    Ok((receipt, body.instance))
}

fn print(body: &Body) -> anyhow::Result<()> {
    let rows: Vec<Vec<String>> = body
        .wiped
        .iter()
        .map(|(what, w)| {
            vec![
                what.clone(),
                w.method.clone(),
                w.verified.to_string(),
                w.bytes.to_string(),
                format!("{} ms", w.duration_ms),
                w.detail.clone(),
            ]
        })
        .collect();
    printer::table(&["WHAT", "METHOD", "VERIFIED", "BYTES", "TIME", "HOW"], &rows)?;
    println!(
        "\nreceipt of {} by node {}: {}; signature, node and content are good",
        body.instance,
        body.node,
        printer::clean(&body.reason)
    );
    Ok(())
}
