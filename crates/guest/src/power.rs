//! The only ways out of PID 1.

use std::{thread, time::Duration};

use crate::fatal::{Check, Fatal};

/// Ends the machine. The VMM runs with "no reboot", so a restart is the end of it on every machine type.
pub(crate) fn off() -> ! {
    rustix::fs::sync();
    loop {
        // Fails only without CAP_SYS_BOOT, which PID 1 never gives up.
        let _ = rustix::system::reboot(rustix::system::RebootCommand::Restart);
        thread::sleep(Duration::from_secs(1));
    }
}

/// The same in a container, whose end takes everything with it.
pub(crate) fn exit_on_panic() {
    std::panic::set_hook(Box::new(|info| {
        of_panic(info).print();
        std::process::exit(1)
    }));
}

/// A panic is a bug; it ends the machine like any other failure, before the runtime's abort could make the kernel panic.
pub(crate) fn off_on_panic() {
    std::panic::set_hook(Box::new(|info| {
        of_panic(info).print();
        off()
    }));
}

fn of_panic(info: &std::panic::PanicHookInfo<'_>) -> Fatal {
    let place = info.location().map(|at| format!("{}:{}", at.file(), at.line())).unwrap_or_default();
    Fatal::new(Check::Panic, format!("{} at {place}", info.payload_as_str().unwrap_or("panic")))
}
