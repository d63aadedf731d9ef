//! Events to claims.

use casemate_evidence::{
    eventlog::{Content, Coverage, EventRef, EventType, Ipl, LogRef, device_path_text},
    tpm::{Digest, HashAlg},
};

use super::{BootClaims, CommandLine, Image, Measured, secure};
use crate::{
    boot::{
        BootPolicy,
        phases::{Phases, Role},
    },
    ima::IMA_PCR,
    quote::QuotedBanks,
};

/// What the quoted PCRs of `bank` say, and the digests of the images.
pub(in crate::boot) fn read(
    log: &LogRef<'_>,
    bank: HashAlg,
    quoted: &QuotedBanks,
    policy: &BootPolicy,
) -> (BootClaims, Vec<Digest>) {
    let values = quoted.banks().get(&bank);
    let pcrs = values.map_or_else(Vec::new, |values| values.keys().copied().filter(|pcr| *pcr != IMA_PCR).collect());
    let mut reading = Reading {
        bank,
        claims: BootClaims { bank: bank.name().to_owned(), pcrs, warnings: policy.warnings(), ..BootClaims::default() },
        images: Vec::new(),
        secure: secure::State::default(),
    };
    let mut phases = Phases::new(bank);
    for event in &log.events {
        let Some(digest) = event.measured(bank).filter(|_| reading.claims.pcrs.contains(&event.pcr)) else {
            continue;
        };
        match phases.step(event.index, event.pcr, event.kind, digest) {
            Ok(role) => reading.event(event, digest, role),
            Err(error) => reading.claims.problems.push(error.to_string()),
        }
    }
    if let Err(error) = phases.finish(|pcr| reading.claims.pcrs.contains(&pcr)) {
        reading.claims.problems.push(error.to_string());
    }
    let Reading { mut claims, images, secure, .. } = reading;
    secure.finish(&mut claims);
    (claims, images)
}

struct Reading {
    bank: HashAlg,
    claims: BootClaims,
    images: Vec<Digest>,
    secure: secure::State,
}

impl Reading {
    fn event(&mut self, event: &EventRef<'_>, digest: &[u8], role: Role) {
        self.claims.events += 1;
        self.claims.unknown_events += u64::from(event.kind.name().is_none());
        match (role, event.pcr) {
            (Role::Separator, _) => {}
            // No rule allows a change of secure boot by somebody else.
            (Role::Firmware | Role::Later | Role::Late, 7) => self.secure.event(event, self.bank, role, &mut self.claims),
            (Role::Late, _) => self.claims.late.push(measured(event, digest)),
            (Role::Firmware | Role::Later, 4) => self.boot_manager(event, digest),
            (Role::Firmware, _) => self.firmware(event, digest),
            // GPT and actions: nothing to claim but that they are there.
            (Role::Later, 5) => {}
            (Role::Later, 8) => self.command(event, digest),
            (Role::Later, 14) => self.shim(event, digest),
            (Role::Later, _) => self.loaded(event, digest),
        }
    }

    fn firmware(&mut self, event: &EventRef<'_>, digest: &[u8]) {
        if event.kind == EventType::S_CRTM_VERSION && event.pcr == 0 {
            let covered = event.coverage(self.bank).bytes();
            self.claims.firmware_version = covered.map(utf16_or_ascii).or(self.claims.firmware_version.take());
        }
        self.claims.firmware.push(measured(event, digest));
    }

    fn boot_manager(&mut self, event: &EventRef<'_>, digest: &[u8]) {
        match event.content() {
            Content::Image(image) => {
                self.images.extend(Digest::from_slice(digest));
                let label = bounded(device_path_text(image.device_path));
                self.claims.images.push(Image { pcr: event.pcr, digest: hex::encode(digest), label });
            }
            // "Calling EFI Application from Boot Option" and the like, unless it is a binary under a false name.
            Content::Text(_) if event.coverage(self.bank).is_whole() => {}
            _ => self.claims.loader.push(measured(event, digest)),
        }
    }

    fn command(&mut self, event: &EventRef<'_>, digest: &[u8]) {
        self.claims.loader_commands += 1;
        if let Content::Ipl(Ipl::KernelCommandLine(_)) = event.content() {
            self.command_line("grub", event, digest);
        }
    }

    fn shim(&mut self, event: &EventRef<'_>, digest: &[u8]) {
        if let Content::Ipl(Ipl::ShimVariable(_)) = event.content() {
            self.claims.shim.push(measured(event, digest));
        } else {
            self.claims.loader.push(measured(event, digest));
        }
    }

    fn loaded(&mut self, event: &EventRef<'_>, digest: &[u8]) {
        match (event.pcr, event.kind, event.content()) {
            (12, EventType::IPL, _) => self.command_line("systemd-stub", event, digest),
            (9, _, Content::Tagged { id: LOAD_OPTIONS, .. }) => self.command_line("efi-stub", event, digest),
            _ => self.claims.loader.push(measured(event, digest)),
        }
    }

    fn command_line(&mut self, source: &str, event: &EventRef<'_>, digest: &[u8]) {
        let text = match event.coverage(self.bank) {
            Coverage::Part(text) | Coverage::Whole(text) => Some(utf16_or_ascii(text)),
            Coverage::Nothing | Coverage::DigestOnly => None,
        };
        self.claims.command_lines.push(CommandLine { source: source.to_owned(), digest: hex::encode(digest), text });
    }
}

pub(super) fn measured(event: &EventRef<'_>, digest: &[u8]) -> Measured {
    let kind = event.kind.name().map_or_else(|| format!("{:#010x}", event.kind.0), str::to_owned);
    Measured { pcr: event.pcr, kind, digest: hex::encode(digest), label: label(event) }
}

fn label(event: &EventRef<'_>) -> String {
    bounded(match event.content() {
        Content::Variable(variable) => format!("{} {}", variable.guid, variable.name_text()),
        Content::Image(image) => device_path_text(image.device_path),
        Content::Blob { base, length, description } => {
            format!("{} {base:#x}+{length:#x}", description.escape_ascii())
        }
        Content::Tables { count, description } => format!("{} {count} tables", description.escape_ascii()),
        Content::Text(text) => utf16_or_ascii(text),
        Content::Ipl(Ipl::ShimVariable(name)) => name.to_owned(),
        Content::Ipl(_) => utf16_or_ascii(event.data),
        Content::Tagged { id, .. } => format!("tag {id:#010x}"),
        Content::Gpt(gpt) => format!("disk {}", gpt.disk),
        Content::Separator(_) | Content::StartupLocality(_) | Content::Opaque(_) | Content::Unknown | Content::Malformed => {
            format!("{} bytes", event.data.len())
        }
    })
}

/// Text of either kind without its final zero; what is not text is escaped.
pub(super) fn utf16_or_ascii(bytes: &[u8]) -> String {
    let (units, odd) = bytes.as_chunks::<2>();
    if odd.is_empty()
        && !units.is_empty()
        && units.iter().all(|[low, high]| *high == 0 && (*low != 0 || bytes.ends_with(&[0, 0])))
    {
        let text: Vec<u16> = units.iter().map(|unit| u16::from_le_bytes(*unit)).collect();
        return String::from_utf16_lossy(text.strip_suffix(&[0]).unwrap_or(&text)).escape_debug().to_string();
    }
    let bytes = bytes.strip_suffix(b"\0").unwrap_or(bytes);
    match std::str::from_utf8(bytes) {
        Ok(text) if !text.contains(char::is_control) => text.to_owned(),
        _ => bytes.escape_ascii().to_string(),
    }
}

fn bounded(mut text: String) -> String {
    text.truncate(text.floor_char_boundary(MAX_LABEL));
    text
}

const MAX_LABEL: usize = 256;
/// LOAD_OPTIONS_EVENT_TAG_ID of Linux.
const LOAD_OPTIONS: u32 = 0x8f3b_22ed;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_of_either_kind_is_shown_whole_and_what_is_not_text_is_escaped() {
        let shown: [(&[u8], &str); 9] = [
            (b"", ""),
            (b"a\0b\0", "ab"),
            (b"a\0b\0\0\0", "ab"),
            (b"ab\0", "ab"),
            // One byte more than UTF-16 has: nothing of it may get lost.
            (b"a\0b\0c", "a\\x00b\\x00c"),
            (b"a\0\0\0b\0", "a\\x00\\x00\\x00b"),
            (b"a\nb", "a\\nb"),
            ("\u{e9}".as_bytes(), "\u{e9}"),
            (b"\xff", "\\xff"),
        ];
        for (bytes, expected) in shown {
            assert_eq!(utf16_or_ascii(bytes), expected, "{bytes:?}");
        }
    }

    #[test]
    fn labels_end_at_their_limit_and_at_a_whole_character() {
        for len in [0, MAX_LABEL - 1, MAX_LABEL, MAX_LABEL + 1, 3 * MAX_LABEL] {
            assert_eq!(bounded("x".repeat(len)).len(), len.min(MAX_LABEL));
        }
        assert_eq!(bounded("x".to_owned() + &"\u{e9}".repeat(MAX_LABEL)).len(), MAX_LABEL - 1);
    }
}
