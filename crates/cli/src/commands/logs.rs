//! `casemate logs`: opens the records of an instance that this user started.

use anyhow::Context as _;

use crate::{
    args::{Globals, Logs},
    client::Client,
    commands::records::{self, Reader, Until},
    context::ContextFile,
    exit::{Hinted, Status},
    instance_keys::InstanceKeys,
    printer::Printer,
};

pub(crate) async fn run(globals: &Globals, args: Logs) -> anyhow::Result<Status> {
    if let Some(folder) = &args.results {
        records::check_folder(folder)?;
    }
    let client = Client::new(&ContextFile::load(globals)?)?;
    let keys = InstanceKeys::load(&args.instance)?;
    let Some(guest) = &keys.guest_hpke else {
        let hint = "output exists only after you verified the guest and released keys to it".to_owned();
        return Err(Hinted { message: format!("the guest of {} was never verified here", args.instance), hint }.into());
    };
    let guest = casemate_api::workload::parse_hex32(guest).context("read the guest's key")?;
    let mut reader = Reader::new(&client, &args.instance, &keys.tenant()?, &guest, &keys.workload_digest()?)?;
    let until = if args.follow || args.results.is_some() { Until::Exit } else { Until::Now };
    let exit = reader.run(until).await?;
    let printer = Printer::new(globals);
    match (exit, args.results) {
        (Some(_), Some(folder)) => {
            let count = reader.unpack(&folder)?;
            printer.done("results", &format!("{count} entries decrypted into {}", folder.display()));
        }
        (None, Some(_)) => anyhow::bail!("the instance ended without results; see `casemate inspect {}`", args.instance),
        (_, None) => {}
    }
    Ok(Status::Ok)
}
