//! The types of events ("TCG PC Client Platform Firmware Profile", level 00 version 1.06, section 10.4.1).

use super::EventType;

macro_rules! kinds {
    ($($name:ident = $value:literal, $text:literal;)*) => {
        impl EventType {
            $(#[doc = $text] pub const $name: Self = Self($value);)*

            /// The name in the specification; `None` for a type that it does not know, which nothing may be concluded from.
            pub fn name(self) -> Option<&'static str> {
                match self {
                    $(Self::$name => Some(concat!("EV_", stringify!($name))),)*
                    _ => None,
                }
            }
        }
    };
}

kinds! {
    PREBOOT_CERT = 0x00, "Reserved.";
    POST_CODE = 0x01, "Firmware code; the data is a description or an address range.";
    UNUSED = 0x02, "Reserved.";
    NO_ACTION = 0x03, "Informative, never extended.";
    SEPARATOR = 0x04, "End of the firmware's measurements in a PCR, or an error.";
    ACTION = 0x05, "Something was done; the data is a text.";
    EVENT_TAG = 0x06, "The data is a tagged structure; what the digest covers depends on the tag.";
    S_CRTM_CONTENTS = 0x07, "The first code that measures.";
    S_CRTM_VERSION = 0x08, "Version of the first code that measures.";
    CPU_MICROCODE = 0x09, "Microcode; the data is a description.";
    PLATFORM_CONFIG_FLAGS = 0x0a, "Settings of the platform.";
    TABLE_OF_DEVICES = 0x0b, "Table of devices.";
    COMPACT_HASH = 0x0c, "Digest made by a boot loader.";
    IPL = 0x0d, "Boot loader's own.";
    IPL_PARTITION_DATA = 0x0e, "Partition table of a legacy boot.";
    NONHOST_CODE = 0x0f, "Code of another processor.";
    NONHOST_CONFIG = 0x10, "Settings of another processor.";
    NONHOST_INFO = 0x11, "That another processor has code at all.";
    OMIT_BOOT_DEVICE_EVENTS = 0x12, "Boot devices are not measured.";
    POST_CODE2 = 0x13, "Firmware code, with a description of it.";
    EFI_VARIABLE_DRIVER_CONFIG = 0x8000_0001, "A UEFI variable that configures the firmware.";
    EFI_VARIABLE_BOOT = 0x8000_0002, "A boot variable; the digest covers only its value.";
    EFI_BOOT_SERVICES_APPLICATION = 0x8000_0003, "An application started by the firmware; the digest is its Authenticode digest.";
    EFI_BOOT_SERVICES_DRIVER = 0x8000_0004, "A driver from an adapter or the disk.";
    EFI_RUNTIME_SERVICES_DRIVER = 0x8000_0005, "A driver that stays.";
    EFI_GPT_EVENT = 0x8000_0006, "The partition table.";
    EFI_ACTION = 0x8000_0007, "Something was done; the data is a text.";
    EFI_PLATFORM_FIRMWARE_BLOB = 0x8000_0008, "Firmware volume, by address.";
    EFI_HANDOFF_TABLES = 0x8000_0009, "Tables handed to the operating system.";
    EFI_PLATFORM_FIRMWARE_BLOB2 = 0x8000_000a, "Firmware volume, with a description.";
    EFI_HANDOFF_TABLES2 = 0x8000_000b, "Tables handed to the operating system, with a description.";
    EFI_VARIABLE_BOOT2 = 0x8000_000c, "A boot variable.";
    EFI_GPT_EVENT2 = 0x8000_000d, "The partition table, without its volatile parts.";
    EFI_HCRTM_EVENT = 0x8000_0010, "What a hardware root measured before the TPM was started.";
    EFI_VARIABLE_AUTHORITY = 0x8000_00e0, "The entry of a signature database that let something start.";
    EFI_SPDM_FIRMWARE_BLOB = 0x8000_00e1, "Firmware of a device, as it says by SPDM.";
    EFI_SPDM_FIRMWARE_CONFIG = 0x8000_00e2, "Settings of a device, as it says by SPDM.";
    EFI_SPDM_DEVICE_POLICY = 0x8000_00e3, "The policy for devices that speak SPDM.";
    EFI_SPDM_DEVICE_AUTHORITY = 0x8000_00e4, "The authority that a device's SPDM certificate leads to.";
}
