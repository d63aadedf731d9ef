//! Device paths (UEFI 2.10, section 10.3) as text for people.

use std::fmt::Write as _;

use super::{Guid, content::utf16_text};

/// `path` in the form that people know, as far as the kinds of nodes are common; others as type, subtype and length.
pub fn device_path_text(path: &[u8]) -> String {
    let mut out = String::new();
    let mut rest = path;
    for _ in 0..MAX_NODES {
        let Some((node, after)) = split(rest) else {
            break;
        };
        if (node.kind, node.sub) == (0x7f, 0xff) {
            return out;
        }
        out.push('/');
        text(&mut out, &node);
        rest = after;
    }
    if !rest.is_empty() {
        out.push_str("/...");
    }
    out
}

struct Node<'a> {
    kind: u8,
    sub: u8,
    body: &'a [u8],
}

fn split(path: &[u8]) -> Option<(Node<'_>, &[u8])> {
    let ([kind, sub, low, high], _) = path.split_first_chunk()?;
    let len = usize::from(u16::from_le_bytes([*low, *high]));
    let (node, rest) = path.split_at_checked(len)?;
    Some((Node { kind: *kind, sub: *sub, body: node.get(4..)? }, rest))
}

fn text(out: &mut String, node: &Node<'_>) {
    let done = match (node.kind, node.sub, node.body) {
        (1, 1, [function, device]) => write!(out, "Pci({device:#x},{function:#x})"),
        (2, 1, [0xd0, 0x41, 0x03, 0x0a, uid @ ..]) => write!(out, "PciRoot({:#x})", le(uid)),
        (2, 1, [hid @ .., _, _, _, _]) => write!(out, "Acpi({:#x})", le(hid)),
        (3, 5, [port, interface]) => write!(out, "USB({port:#x},{interface:#x})"),
        (3, 18, [port, _, multiplier, _, lun, _]) => write!(out, "Sata({port:#x},{multiplier:#x},{lun:#x})"),
        (3, 23, [a, b, c, d, ..]) => write!(out, "NVMe({:#x})", u32::from_le_bytes([*a, *b, *c, *d])),
        (3, 24, uri) => write!(out, "Uri({})", uri.escape_ascii()),
        (4, 1, hd) if hd.len() == 38 => {
            let signature = Guid(hd[20..36].try_into().expect("sixteen bytes"));
            write!(out, "HD({},{signature})", le(&hd[..4]))
        }
        (4, 4, name) => write!(out, "{}", utf16_text(name).replace(char::is_control, "?")),
        (4, 6, file) if file.len() == 16 => write!(out, "FvFile({})", Guid(file.try_into().expect("sixteen bytes"))),
        (4, 7, volume) if volume.len() == 16 => write!(out, "Fv({})", Guid(volume.try_into().expect("sixteen bytes"))),
        (4, 8, range) if range.len() == 20 => write!(out, "Offset({:#x},{:#x})", le(&range[4..12]), le(&range[12..])),
        (kind, sub, body) => write!(out, "Path({kind},{sub},{} bytes)", body.len()),
    };
    done.expect("writing to a String cannot fail");
}

/// Little-endian, at most eight bytes of it.
fn le(bytes: &[u8]) -> u64 {
    bytes.iter().take(8).rev().fold(0, |value, byte| value << 8 | u64::from(*byte))
}

/// More than any real path has.
const MAX_NODES: usize = 64;
