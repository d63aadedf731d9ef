//! `casemate reference compute`: what good evidence says.

use anyhow::Context as _;
use casemate_evidence::{eventlog::LogRef, tdx::ccel::CcelLog, tpm::HashAlg};
use casemate_verifier::snp::launch::{CpuSignature, KernelDigests, LaunchInputs, launch_measurement};
use serde_json::{Map, Value, json};

use crate::{
    args::{ComputeCommand, ComputeSnp, Globals, Reference, ReferenceCommand},
    commands::evidence::read,
    exit::Status,
    printer,
};

pub(crate) fn run(globals: &Globals, args: &Reference) -> anyhow::Result<Status> {
    let ReferenceCommand::Compute { what } = &args.command;
    let values = match what {
        ComputeCommand::Snp(launch) => snp(launch)?,
        ComputeCommand::TdxRtmr { event_log } => {
            let attempt = || format!("read {}", event_log.display());
            let log = CcelLog::parse(&read(event_log)?).with_context(attempt)?;
            let registers = log.replay().into_iter().enumerate();
            registers.map(|(index, value)| (format!("rtmr{index}"), json!(hex::encode(value)))).collect()
        }
        ComputeCommand::Pcrs { event_log, bank } => {
            let attempt = || format!("read {}", event_log.display());
            let bank = HashAlg::from_name(bank).with_context(|| format!("{bank} is no bank of a TPM"))?;
            let bytes = read(event_log)?;
            let log = LogRef::parse(&bytes).with_context(attempt)?;
            anyhow::ensure!(log.has_bank(bank), "the log has no digests of bank {}", bank.name());
            log.replay(bank).into_iter().map(|(pcr, value)| (format!("pcr{pcr}"), json!(value.to_string()))).collect()
        }
    };
    print(globals, &values)?;
    Ok(Status::Ok)
}

fn snp(args: &ComputeSnp) -> anyhow::Result<Map<String, Value>> {
    let cpu = match args.cpu.to_ascii_lowercase().trim_start_matches("epyc-") {
        "milan" => CpuSignature::EPYC_MILAN,
        "genoa" => CpuSignature::EPYC_GENOA,
        "turin" => CpuSignature::EPYC_TURIN,
        _ => anyhow::bail!("--cpu {}: expected EPYC-Milan, EPYC-Genoa or EPYC-Turin", args.cpu),
    };
    let firmware = read(&args.firmware)?;
    let kernel = match &args.kernel {
        None => None,
        Some(kernel) => {
            let initrd = args.initrd.as_deref().map(read).transpose()?.unwrap_or_default();
            Some(KernelDigests::of(&read(kernel)?, &initrd, &args.append))
        }
    };
    let inputs = LaunchInputs { firmware: &firmware, kernel, vcpus: args.vcpus, cpu, guest_features: args.guest_features };
    let measurement = launch_measurement(&inputs).context("compute the launch measurement")?;
    Ok(Map::from_iter([("measurement".to_owned(), json!(hex::encode(measurement)))]))
}

fn print(globals: &Globals, values: &Map<String, Value>) -> anyhow::Result<()> {
    if globals.json {
        return printer::json(values);
    }
    for (name, value) in values {
        println!("{name} {}", value.as_str().unwrap_or_default());
    }
    Ok(())
}
