//! PCR 7: the state of secure boot, and what it let start.

use casemate_evidence::{
    eventlog::{Content, EventRef, EventType, Guid, Variable, count_signatures},
    tpm::HashAlg,
};

use super::{Authority, BootClaims, SecureVariable, read::measured};
use crate::boot::phases::Role;

/// What is known while PCR 7 is being read.
#[derive(Debug, Default)]
pub(super) struct State {
    secure_boot: Option<bool>,
    platform_key: Option<bool>,
    exchange_key: Option<bool>,
}

impl State {
    pub(super) fn event(&mut self, event: &EventRef<'_>, bank: HashAlg, role: Role, claims: &mut BootClaims) {
        let problem = match (event.kind, event.content()) {
            // Covered in whole, or it is a story.
            (EventType::EFI_VARIABLE_DRIVER_CONFIG | EventType::EFI_VARIABLE_AUTHORITY, _)
                if !event.coverage(bank).is_whole() =>
            {
                "has not the digest of its data"
            }
            (EventType::EFI_VARIABLE_DRIVER_CONFIG, Content::Variable(variable)) if role == Role::Firmware => {
                match self.variable(&variable, event, bank, claims) {
                    Ok(()) => return,
                    Err(problem) => problem,
                }
            }
            (EventType::EFI_VARIABLE_AUTHORITY, Content::Variable(variable)) => {
                let content = variable.certificate().unwrap_or(variable.value);
                let sha256 = HashAlg::Sha256.digest(&[content]).to_string();
                claims.authorities.push(Authority { variable: variable.name_text(), sha256 });
                return;
            }
            // Not secure boot, but measured with it: devices that speak SPDM.
            (EventType::EFI_SPDM_DEVICE_POLICY | EventType::EFI_SPDM_DEVICE_AUTHORITY, _) if role == Role::Firmware => {
                claims.firmware.push(measured(event, event.measured(bank).unwrap_or_default()));
                return;
            }
            // "UEFI Debug Mode", "DMA Protection Disabled".
            (EventType::EFI_ACTION, _) => "says that the firmware is not in a production state",
            _ => "is of a type that does not belong there",
        };
        claims.problems.push(format!("event {} of the log, in PCR 7, {problem}", event.index));
    }

    pub(super) fn finish(self, claims: &mut BootClaims) {
        // Without a platform key the firmware is in setup mode, where nothing is enforced.
        let keys = self.platform_key == Some(true) && self.exchange_key == Some(true);
        claims.secure_boot = self.secure_boot == Some(true) && keys && claims.problems.is_empty();
    }

    fn variable(
        &mut self,
        variable: &Variable<'_>,
        event: &EventRef<'_>,
        bank: HashAlg,
        claims: &mut BootClaims,
    ) -> Result<(), &'static str> {
        let name = variable.name_text();
        let (guid, is_list) = match name.as_str() {
            "SecureBoot" => (Guid::EFI_GLOBAL, false),
            "PK" | "KEK" => (Guid::EFI_GLOBAL, true),
            "db" | "dbx" | "dbt" | "dbr" => (Guid::IMAGE_SECURITY, true),
            // SetupMode, AuditMode, DeployedMode, OsIndications…: named, not judged.
            _ => (variable.guid, false),
        };
        if variable.guid != guid {
            return Err("is a variable with a name of secure boot, but of another vendor");
        }
        if claims.variables.iter().any(|known| known.name == name) {
            return Err("is a variable that was measured before");
        }
        let entries = is_list.then(|| count_signatures(variable.value).ok_or("is a list of signatures that is not well-formed"));
        let entries = entries.transpose()?.map(|count| u64::try_from(count).unwrap_or(u64::MAX));
        match name.as_str() {
            "SecureBoot" => self.secure_boot = Some(variable.value == [1]),
            "PK" => self.platform_key = entries.map(|count| count > 0),
            "KEK" => self.exchange_key = entries.map(|count| count > 0),
            "dbx" => claims.dbx_entries = entries.unwrap_or(0),
            _ => {}
        }
        let digest = hex::encode(event.measured(bank).unwrap_or_default());
        claims.variables.push(SecureVariable { name, digest, entries });
        Ok(())
    }
}
