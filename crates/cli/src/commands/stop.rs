//! `casemate stop`.

use std::time::Duration;

use crate::{
    args::{Globals, Stop},
    client::Client,
    commands::{ending, follow::Follower},
    context::ContextFile,
    exit::Status,
    printer::Printer,
    trust::Trust,
};

pub(crate) async fn run(globals: &Globals, args: Stop) -> anyhow::Result<Status> {
    let context = ContextFile::load(globals)?;
    let (client, printer, trust) = (Client::new(&context)?, Printer::new(globals), Trust::load(&context)?);
    let silent = Printer::new(&Globals { context: None, json: false, quiet: true });
    let mut follower = Follower::new(&client, &silent, &args.instance);
    ending::stop_and_wait(&client, &mut follower, &args.instance, Duration::from_secs(args.timeout_s)).await?;
    ending::check_receipt(&client, &trust, &printer, &args.instance).await?;
    Ok(Status::Ok)
}
