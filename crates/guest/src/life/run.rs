//! From the keys to the end: assets, process, output, exit.

use std::time::Duration;

use casemate_seal::{KeyRelease, Record};
use tokio::{
    pin,
    time::{sleep, timeout},
};

use super::{Configured, Heard, Life};
use crate::{
    fatal::{Check, Fatal, OrFatal},
    home::{Home, Running as _},
    phase::{Phase, say},
    workload::{
        Deadlines, Due, Network, Plan,
        output::Recorder,
        process::{Streams, reap_orphans},
        seccomp, user,
    },
};

impl<H: Home> Life<H> {
    /// Runs the workload to its end and until the host stored the last record.
    pub(super) async fn run(&mut self, mut configured: Configured, keys: KeyRelease) -> Result<(), Fatal> {
        let plan = prepare(&self.home, &configured, &keys)?;
        // The keys did their work; they wipe themselves.
        drop(keys);
        self.reach(Phase::Keyed).await;
        let sealer = configured.sealer()?;
        let spool = self.spool.clone();
        let recorder = Recorder::new(&spool, &sealer);
        let deadlines = Deadlines::after(Duration::from_secs(configured.workload.ttl_s));
        let (process, streams) = self.home.start(&plan).await?;
        self.progress.observed(process.observe());
        self.reach(Phase::Running).await;

        let code = self.supervise(&mut configured, &process, streams, &recorder, deadlines).await?;
        let code = self.collect(&mut configured, &recorder, code).await?;
        self.with_messages(&mut configured, recorder.record(Record::Exit { code })).await??;
        self.progress.reach(Phase::Exited);
        self.report(Some(code)).await;
        match timeout(LAST_ACKNOWLEDGEMENT, self.with_messages(&mut configured, spool.all_acknowledged())).await {
            Ok(result) => result,
            Err(_) => {
                say("casemate-guest: the host did not store all records within 30 s");
                Ok(())
            }
        }
    }

    /// Until the process has ended and its output is copied.
    async fn supervise(
        &mut self,
        configured: &mut Configured,
        process: &H::Process,
        streams: Streams,
        recorder: &Recorder<'_>,
        mut deadlines: Deadlines,
    ) -> Result<i32, Fatal> {
        let copy = recorder.copy(streams);
        pin!(copy);
        // Looking around takes time that the workload's first words need more.
        let (look, mut looked) = (sleep(LOOK_AFTER), false);
        pin!(look);
        let (mut code, mut copied) = (None, false);
        loop {
            if let (Some(code), true) = (code, copied) {
                if !looked {
                    self.look().await;
                }
                return Ok(code);
            }
            tokio::select! {
                () = &mut look, if !looked => {
                    looked = true;
                    self.look().await;
                }
                result = &mut copy, if !copied => {
                    result?;
                    copied = true;
                }
                exited = process.exited(), if code.is_none() => {
                    code = Some(exited.or_fatal(Check::WorkloadStart, "wait for the workload's process")?);
                    // Its namespace ended with it; this is for what might have stayed in the group.
                    process.kill();
                    reap_orphans();
                }
                due = deadlines.next(), if code.is_none() => match due {
                    Due::Terminate => process.terminate(),
                    Due::Kill => process.kill(),
                },
                heard = self.hear(Some(configured)) => {
                    if let Heard::Stop(stop) = heard? {
                        deadlines.stop(Duration::from_millis(stop.grace_ms.into()));
                    }
                }
            }
        }
    }

    /// Tells what is seen of the machine's protection.
    async fn look(&mut self) {
        self.progress.observed(self.home.observe());
        self.report(None).await;
    }

    /// Sends the output directory. Where that is not possible, the tenant is told so and sees it in the exit code.
    async fn collect(&mut self, configured: &mut Configured, recorder: &Recorder<'_>, code: i32) -> Result<i32, Fatal> {
        if configured.workload.output_path.is_empty() {
            return Ok(code);
        }
        let dir = self.home.output();
        let Err(error) = self.with_messages(configured, recorder.archive(&dir)).await?? else { return Ok(code) };
        let text = format!("casemate: the output could not be collected: {error}\n");
        self.with_messages(configured, recorder.record(Record::Stderr(text.into_bytes()))).await??;
        Ok(if code == 0 { OUTPUT_LOST } else { code })
    }

    /// Goes on answering the host meanwhile; the process is gone, so a Stop changes nothing.
    async fn with_messages<T>(&mut self, configured: &mut Configured, work: impl Future<Output = T>) -> Result<T, Fatal> {
        pin!(work);
        loop {
            tokio::select! {
                done = &mut work => return Ok(done),
                heard = self.hear(Some(configured)) => drop(heard?),
            }
        }
    }
}

/// All that the process needs: user, decrypted assets, output directory, filters.
fn prepare(home: &impl Home, configured: &Configured, keys: &KeyRelease) -> Result<Plan, Fatal> {
    let (workload, launch) = (&configured.workload, &configured.launch);
    let identity =
        user::resolve_in(home.image(), &workload.process.user).or_fatal(Check::WorkloadStart, "resolve the workload's user")?;
    let mut binds = home.open_assets(&workload.assets, &launch.assets, keys, &identity)?;
    if !workload.output_path.is_empty() {
        binds.extend(home.open_output(&workload.output_path, &identity)?);
    }
    // That launch and workload agree on whether there is one was checked when the launch was taken.
    let network = match &launch.network {
        Some(network) => {
            binds.extend(home.connect(network)?);
            Network::Card
        }
        None => Network::None,
    };
    let mut env = workload.process.env.clone();
    env.entry("HOME".into()).or_insert_with(|| identity.home.clone().unwrap_or_else(|| "/".into()));
    Ok(Plan {
        args: workload.process.args.clone(),
        env,
        cwd: workload.process.cwd.clone(),
        identity,
        host_name: launch.instance.chars().take(MAX_HOST_NAME).collect(),
        binds,
        network,
        filter: seccomp::filter(),
    })
}

/// Like container engines: the run itself was fine, what surrounds it was not.
const OUTPUT_LOST: i32 = 125;
/// After the start of the workload.
const LOOK_AFTER: Duration = Duration::from_millis(500);
const LAST_ACKNOWLEDGEMENT: Duration = Duration::from_secs(30);
const MAX_HOST_NAME: usize = 63;
