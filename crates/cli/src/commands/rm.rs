//! `casemate rm`.

use std::time::Duration;

use crate::{
    args::{Globals, Rm},
    client::Client,
    commands::{ending, follow::Follower},
    context::ContextFile,
    exit::Status,
    instance_keys::InstanceKeys,
    printer::Printer,
};

/// Longest wait for the wipe with `--force`.
const WIPE_LIMIT: Duration = Duration::from_secs(120);

pub(crate) async fn run(globals: &Globals, args: Rm) -> anyhow::Result<Status> {
    let client = Client::new(&ContextFile::load(globals)?)?;
    if args.force {
        let silent = Printer::new(&Globals { context: None, json: false, quiet: true });
        let mut follower = Follower::new(&client, &silent, &args.instance);
        ending::stop_and_wait(&client, &mut follower, &args.instance, WIPE_LIMIT).await?;
    }
    client.remove(&args.instance).await?;
    InstanceKeys::remove(&args.instance)?;
    Printer::new(globals).done("removed", &args.instance);
    Ok(Status::Ok)
}
