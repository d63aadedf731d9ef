//! `casemate reference`: what good evidence says, computed, signed, checked, converted.

mod signed;

use std::{collections::BTreeMap, io::Write as _};

use anyhow::Context as _;
use casemate_evidence::{eventlog::LogRef, tdx::ccel::CcelLog, tpm::HashAlg};
use casemate_verifier::snp::launch::{CpuSignature, KernelDigests, LaunchInputs, launch_measurement};

use crate::{
    args::{ComputeCommand, ComputeSnp, Format, Globals, Reference, ReferenceCommand},
    commands::evidence::read,
    exit::Status,
    printer,
};

pub(crate) use signed::parse_public_key;

pub(crate) fn run(globals: &Globals, args: &Reference) -> anyhow::Result<Status> {
    match &args.command {
        ReferenceCommand::Compute { what } => compute(globals, what),
        ReferenceCommand::Key { file, output } => signed::make_key(file, globals.json || *output == Format::Json),
        ReferenceCommand::Sign { file, sign_key, out } => signed::sign(globals, file, sign_key, out),
        ReferenceCommand::Verify(checked) => signed::verify(globals, checked),
        ReferenceCommand::Show(checked) => signed::show(globals, checked),
        ReferenceCommand::Export(export) => signed::export(globals, export),
        ReferenceCommand::Import { from, sign_key, out } => signed::import(globals, from, sign_key, out),
    }
}

fn compute(globals: &Globals, what: &ComputeCommand) -> anyhow::Result<Status> {
    let (format, values): (Format, Vec<(String, String)>) = match what {
        ComputeCommand::Snp(launch) => (launch.output, snp(launch)?),
        ComputeCommand::TdxRtmr { event_log, output } => {
            let attempt = || format!("read {}", event_log.display());
            let log = CcelLog::parse(&read(event_log)?).with_context(attempt)?;
            let registers = log.replay().into_iter().enumerate();
            (*output, registers.map(|(index, value)| (format!("rtmr{index}"), hex::encode(value))).collect())
        }
        ComputeCommand::Pcrs { event_log, bank, output } => {
            let attempt = || format!("read {}", event_log.display());
            let bank = HashAlg::from_name(bank).with_context(|| format!("{bank} is no bank of a TPM"))?;
            let bytes = read(event_log)?;
            let log = LogRef::parse(&bytes).with_context(attempt)?;
            anyhow::ensure!(log.has_bank(bank), "the log has no digests of bank {}", bank.name());
            let values = log.replay(bank).into_iter().map(|(pcr, value)| (format!("pcr{pcr}"), value.to_string()));
            (*output, values.collect())
        }
    };
    print(globals.json || format == Format::Json, &values)?;
    Ok(Status::Ok)
}

fn snp(args: &ComputeSnp) -> anyhow::Result<Vec<(String, String)>> {
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
    Ok(vec![("measurement".to_owned(), hex::encode(measurement))])
}

fn print(json: bool, values: &[(String, String)]) -> anyhow::Result<()> {
    if json {
        return printer::json(&values.iter().cloned().collect::<BTreeMap<_, _>>());
    }
    let mut out = std::io::stdout().lock();
    for (name, value) in values {
        writeln!(out, "{name} {value}")?;
    }
    Ok(())
}
