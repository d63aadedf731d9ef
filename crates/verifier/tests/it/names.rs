//! Name constraints and policies of vendors' authorities.

use casemate_verifier::{ek::verify_chain, x509::PathError};
use rcgen::{CertificateParams, DnType, GeneralSubtree, NameConstraints};

use crate::world::{NOW, Pki, critical};

fn verify(change: impl FnOnce(&mut Pki)) -> Result<(), PathError> {
    let mut pki = Pki::good();
    change(&mut pki);
    let (_, chain, anchors) = pki.build(&[0; 34]);
    match verify_chain(&chain, &anchors, NOW) {
        Ok(_) => Ok(()),
        Err(casemate_verifier::ek::EkError::Path(error)) => Err(error),
        Err(other) => panic!("{other}"),
    }
}

fn organisation(params: &mut CertificateParams, name: &str) {
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, "Vendor");
    params.distinguished_name.push(DnType::CommonName, name);
}

fn vendor_only() -> GeneralSubtree {
    let mut name = rcgen::DistinguishedName::new();
    name.push(DnType::OrganizationName, "Vendor");
    GeneralSubtree::DirectoryName(name)
}

fn constrained(permitted: Vec<GeneralSubtree>, excluded: Vec<GeneralSubtree>) -> Option<NameConstraints> {
    Some(NameConstraints { permitted_subtrees: permitted, excluded_subtrees: excluded })
}

#[test]
fn names_within_the_permitted_tree_are_accepted_and_others_refused() {
    let within = |pki: &mut Pki| {
        pki.intermediate.name_constraints = constrained(vec![vendor_only()], vec![]);
        organisation(&mut pki.ek, "EK");
    };
    verify(within).unwrap();
    let elsewhere = verify(|pki| {
        within(pki);
        pki.ek.distinguished_name = rcgen::DistinguishedName::new();
        pki.ek.distinguished_name.push(DnType::OrganizationName, "Another");
    });
    assert!(matches!(elsewhere, Err(PathError::Constraint { .. })), "{elsewhere:?}");
}

#[test]
fn a_root_constrains_every_certificate_below_it() {
    let result = verify(|pki| {
        pki.vendor.name_constraints = constrained(vec![vendor_only()], vec![]);
        organisation(&mut pki.ek, "EK");
    });
    // The intermediate's own name is outside.
    assert!(matches!(result, Err(PathError::Constraint { .. })), "{result:?}");
}

#[test]
fn excluded_names_are_refused_however_they_are_spelled() {
    let result = verify(|pki| {
        pki.intermediate.name_constraints = constrained(vec![], vec![vendor_only()]);
        pki.ek.distinguished_name.push(DnType::OrganizationName, "VENDOR");
    });
    assert!(matches!(result, Err(PathError::Constraint { .. })), "{result:?}");
}

#[test]
fn names_that_are_not_excluded_are_accepted() {
    let result = verify(|pki| {
        pki.intermediate.name_constraints = constrained(vec![], vec![vendor_only()]);
        pki.ek.distinguished_name.push(DnType::OrganizationName, "Another");
    });
    result.unwrap();
}

/// Of a kind that no name below has, so that nothing else could be wrong.
#[test]
fn constraints_with_a_distance_are_refused() {
    for distance in [[0x80, 1, 1], [0x81, 1, 5]] {
        let subtree = [&[0x30, 6, 0x82, 1, b'a'][..], &distance].concat();
        let content = [&[0x30, 10, 0xa0, 8][..], &subtree].concat();
        let result = verify(|pki| pki.intermediate.custom_extensions.push(critical(&[2, 5, 29, 30], content)));
        let Err(PathError::Constraint { problem, .. }) = result else { panic!("{result:?}") };
        assert!(problem.contains("with a distance"), "{problem}");
    }
}

#[test]
fn constraints_of_other_kinds_matter_only_where_there_is_such_a_name() {
    let dns = || constrained(vec![GeneralSubtree::DnsName("vendor.example".into())], vec![]);
    verify(|pki| pki.intermediate.name_constraints = dns()).unwrap();
    let result = verify(|pki| {
        pki.intermediate.name_constraints = dns();
        // GeneralNames with one dNSName "a".
        pki.ek.custom_extensions = vec![critical(&[2, 5, 29, 17], vec![0x30, 0x03, 0x82, 0x01, b'a'])];
    });
    assert!(matches!(result, Err(PathError::Constraint { .. })), "{result:?}");
}

#[test]
fn critical_policies_are_understood_when_their_qualifiers_are() {
    // CertificatePolicies with one policy 2.23.133.11.1.3, without and with a qualifier 1.2.3.
    let plain = vec![0x30, 0x0a, 0x30, 0x08, 0x06, 0x06, 0x67, 0x81, 0x05, 0x0b, 0x01, 0x03];
    let odd =
        [&[0x30, 0x14, 0x30, 0x12][..], &plain[4..], &[0x30, 0x08, 0x30, 0x06, 0x06, 0x02, 0x2a, 0x03, 0x05, 0x00]].concat();
    verify(|pki| pki.intermediate.custom_extensions.push(critical(&[2, 5, 29, 32], plain))).unwrap();
    let result = verify(|pki| pki.intermediate.custom_extensions.push(critical(&[2, 5, 29, 32], odd)));
    assert!(matches!(result, Err(PathError::Critical { .. })), "{result:?}");
    // Policy constraints would need a judgement of policies, which there is none of.
    let constraints = vec![0x30, 0x03, 0x80, 0x01, 0x00];
    let result = verify(|pki| pki.intermediate.custom_extensions.push(critical(&[2, 5, 29, 36], constraints)));
    assert!(matches!(result, Err(PathError::Critical { .. })), "{result:?}");
}
