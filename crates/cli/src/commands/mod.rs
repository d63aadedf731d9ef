//! One module per command.

pub(crate) mod accounts;
pub(crate) mod asset;
pub(crate) mod audit;
pub(crate) mod completions;
pub(crate) mod dev;
pub(crate) mod doctor;
pub(crate) mod endorsements;
pub(crate) mod evidence;
pub(crate) mod image;
pub(crate) mod incidents;
pub(crate) mod inspect;
pub(crate) mod logs;
pub(crate) mod maintenance;
pub(crate) mod nodes;
pub(crate) mod notices;
pub(crate) mod offers;
pub(crate) mod projects;
pub(crate) mod ps;
pub(crate) mod receipt;
pub(crate) mod reference;
pub(crate) mod rm;
pub(crate) mod run;
pub(crate) mod selftest;
pub(crate) mod stop;
pub(crate) mod tokens;
pub(crate) mod verify;
pub(crate) mod webhooks;

mod ending;
mod follow;
mod records;
