//! The BPF programs: probed, loaded, attached, pinned; and their maps.

pub mod hooks;
pub mod layout;
pub mod maps;

use std::{
    collections::BTreeMap,
    fs, io,
    os::fd::AsFd as _,
    path::{Path, PathBuf},
};

use libbpf_rs::{Link, MapCore as _, MapFlags, Object, ObjectBuilder, query};
use thiserror::Error;

use self::hooks::Hook;
use crate::{config::Mode, detector::Group};

static PROGRAMS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/monitor.bpf.o"));

/// Why the programs are not in place.
#[derive(Debug, Error)]
pub enum Error {
    /// libbpf or the kernel said no.
    #[error("{what}")]
    Bpf {
        /// What was attempted.
        what: String,
        /// Its answer.
        #[source]
        source: libbpf_rs::Error,
    },
    /// A file or folder.
    #[error("{what} {}", path.display())]
    Path {
        /// What was attempted.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// Programs of an earlier monitor are still in place.
    #[error(
        "{} has programs of an earlier monitor, which go on denying (hint: only a reboot ends them after a monitor was killed)",
        .0.display()
    )]
    Pinned(PathBuf),
}

fn bpf(what: impl Into<String>) -> impl FnOnce(libbpf_rs::Error) -> Error {
    let what = what.into();
    |source| Error::Bpf { what, source }
}

/// What became of the hooks.
pub type Attached = BTreeMap<Group, Vec<Result<String, String>>>;

/// The programs in the kernel.
#[derive(Debug)]
pub struct Sensors {
    object: Object,
    links: Vec<Link>,
    pins: PathBuf,
    /// By group: hooks that are in place, and why others are not.
    pub attached: Attached,
}

impl Sensors {
    /// Loads what this kernel has hooks for, and attaches it.
    pub fn load(pins: &Path, mode: Mode) -> Result<Self, Error> {
        if fs::read_dir(pins).is_ok_and(|mut entries| entries.next().is_some()) {
            return Err(Error::Pinned(pins.to_owned()));
        }
        // What the kernel refuses is in the status, with its reason; libbpf would tell it in many lines.
        libbpf_rs::set_print(None);
        let hooks = hooks::of_this_kernel(mode).map_err(bpf("read the kernel's own types (BTF)"))?;
        let mut refused = BTreeMap::new();
        let object = load_what_loads(&hooks, &mut refused)?;
        let (mut links, mut attached) = (Vec::new(), Attached::new());
        for program in object.progs_mut() {
            let name = program.name().to_string_lossy().into_owned();
            if !hooks.iter().any(|hook| hook.program == name && chosen(hook, &hooks, &refused)) {
                continue;
            }
            match program.attach() {
                Ok(link) => {
                    links.push(link);
                    for served in hooks.iter().filter(|served| served.program == name) {
                        attached.entry(served.group).or_default().push(Ok(served.name.clone()));
                    }
                }
                Err(error) => {
                    refused.insert(name, error.to_string());
                }
            }
        }
        for hook in hooks.iter().filter(|hook| hook.needed) {
            if !hook.there {
                let why = format!("{}: not there, or not used", hook.name);
                attached.entry(hook.group).or_default().push(Err(why));
            } else if let Some(why) = refused.get(&hook.program) {
                attached.entry(hook.group).or_default().push(Err(format!("{}: {why}", hook.name)));
            }
        }
        let mut sensors = Self { object, links, pins: pins.to_owned(), attached };
        sensors.name_own_objects()?;
        Ok(sensors)
    }

    /// Pins programs' links and maps: from then on they outlive this process.
    pub fn pin(&mut self) -> Result<(), Error> {
        let path = &self.pins;
        fs::create_dir_all(path).map_err(|source| Error::Path { what: "make the folder", path: path.clone(), source })?;
        for (number, link) in self.links.iter_mut().enumerate() {
            link.pin(path.join(format!("link-{number}"))).map_err(bpf(format!("pin link {number} in {}", path.display())))?;
        }
        for mut map in self.object.maps_mut() {
            let name = map.name().to_string_lossy().into_owned();
            // Sections of constants have names with dots, which bpffs refuses, and nothing that changes.
            if !name.contains('.') {
                map.pin(path.join(&name)).map_err(bpf(format!("pin the map {name} in {}", path.display())))?;
            }
        }
        Ok(())
    }

    /// Takes the pins away: the programs end with this process.
    pub fn unpin(&mut self) -> Result<(), Error> {
        let path = self.pins.clone();
        fs::remove_dir_all(&path).map_err(|source| Error::Path { what: "remove the pins in", path, source })
    }

    /// The map called `name`.
    pub(crate) fn map(&self, name: &str) -> libbpf_rs::Map<'_> {
        self.object.maps().find(|map| map.name() == name).expect("maps.h has a map of that name")
    }

    /// Tells the programs which objects are ours.
    fn name_own_objects(&mut self) -> Result<(), Error> {
        let what = "name our own objects to the programs";
        let mut ids: Vec<u64> = Vec::new();
        for map in self.object.maps() {
            ids.push(u64::from(map.info().map_err(bpf(what))?.info.id));
        }
        for link in &self.links {
            let info = link.info().map_err(bpf(what))?;
            ids.push(2 << 32 | u64::from(info.id));
            ids.push(1 << 32 | u64::from(info.prog_id));
        }
        let own = self.map("own");
        ids.iter().try_for_each(|id| own.update(&id.to_le_bytes(), &1_u32.to_le_bytes(), MapFlags::ANY)).map_err(bpf(what))
    }

    /// Whether the program with this id is one of ours.
    pub fn is_own_program(&self, id: u32) -> bool {
        let known = |link: &Link| link.info().is_ok_and(|info| info.prog_id == id);
        self.links.iter().any(known)
    }

    /// Whether every link is still there and attached.
    pub fn intact(&self) -> bool {
        self.links.iter().all(|link| query::LinkInfo::from_fd(link.as_fd()).is_ok_and(|info| info.prog_id != 0))
    }
}

/// Whether a hook's program is loaded: a stand-in only where it is needed.
fn chosen(hook: &Hook, hooks: &[Hook], refused: &BTreeMap<String, String>) -> bool {
    let taken = |name: &str| hooks.iter().any(|one| one.program == name && one.there) && !refused.contains_key(name);
    taken(&hook.program) && hook.instead_of.is_none_or(|other| !taken(other))
}

/// A program that the kernel does not take is left out, and its name and the reason kept: the rest is worth having.
fn load_what_loads(hooks: &[Hook], refused: &mut BTreeMap<String, String>) -> Result<Object, Error> {
    loop {
        let mut open = ObjectBuilder::default().open_memory(PROGRAMS).map_err(bpf("open the programs"))?;
        for mut program in open.progs_mut() {
            let name = program.name().to_string_lossy().into_owned();
            program.set_autoload(hooks.iter().any(|hook| hook.program == name && chosen(hook, hooks, refused)));
        }
        let error = match open.load() {
            Ok(object) => return Ok(object),
            Err(error) => error,
        };
        // libbpf does not say which: they are tried one by one, once.
        if !refused.is_empty() {
            return Err(bpf("load the programs")(error));
        }
        for hook in hooks.iter().filter(|hook| hook.there) {
            if let Some(why) = refusal(&hook.program)? {
                refused.insert(hook.program.clone(), why);
            }
        }
        if refused.is_empty() {
            return Err(bpf("load the programs")(error));
        }
    }
}

/// Why the kernel does not take this one program.
fn refusal(name: &str) -> Result<Option<String>, Error> {
    let mut open = ObjectBuilder::default().open_memory(PROGRAMS).map_err(bpf("open the programs"))?;
    for mut program in open.progs_mut() {
        let wanted = program.name() == name;
        program.set_autoload(wanted);
    }
    Ok(open.load().err().map(|error| error.to_string()))
}
