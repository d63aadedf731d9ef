//! Name constraints (RFC 5280, section 4.2.1.10) as far as vendors of TPMs use them: of directory names. Constraints of other
//! kinds of names are judged where nothing below has such a name, and refused otherwise.

use std::mem;

use x509_cert::{
    ext::pkix::{CertificatePolicies, NameConstraints, SubjectAltName, constraints::name::GeneralSubtree, name::GeneralName},
    name::Name,
};

use super::{Certificate, PathError};

/// Whether the critical name constraints of `certificate` are ones that [`require_permitted`] judges.
pub(super) fn are_understood(certificate: &Certificate) -> bool {
    let constraints = certificate.standard::<NameConstraints>("name constraints").ok().flatten();
    constraints.is_some_and(|found| found.permitted_subtrees.is_some() || found.excluded_subtrees.is_some())
}

/// Whether the critical policies of `certificate` are ones that need no judging: no policy is asked for here, so that a list of
/// them only says more; but its qualifiers must be the two that the standard has.
pub(super) fn policies_are_understood(certificate: &Certificate) -> bool {
    let policies = certificate.standard::<CertificatePolicies>("certificate policies").ok().flatten();
    let known = |oid: &x509_cert::der::asn1::ObjectIdentifier| [CPS, USER_NOTICE].contains(oid);
    policies.is_some_and(|policies| {
        policies.0.iter().flat_map(|policy| policy.policy_qualifiers.iter().flatten()).all(|one| known(&one.policy_qualifier_id))
    })
}

/// Every certificate of `path` (leaf first) has names that each issuer above it, up to `anchor`, may give.
pub(super) fn require_permitted(path: &[Certificate], anchor: &Certificate) -> Result<(), PathError> {
    let issuers = path.iter().skip(1).chain([anchor]);
    for (index, issuer) in issuers.enumerate() {
        let role = |problem| PathError::Role { subject: issuer.subject(), problem };
        let constraints = issuer.standard::<NameConstraints>("name constraints");
        let constraints = constraints.map_err(|_| role("has name constraints that are not well-formed"))?;
        let Some(constraints) = constraints else { continue };
        for below in &path[..=index] {
            require(below, &constraints)?;
        }
    }
    Ok(())
}

fn require(certificate: &Certificate, constraints: &NameConstraints) -> Result<(), PathError> {
    let refuse = |problem| Err(PathError::Constraint { subject: certificate.subject(), problem });
    let names = certificate.standard::<SubjectAltName>("subject alternative name");
    let Ok(names) = names else { return refuse("has alternative names that are not well-formed") };
    let names = names.map_or_else(Vec::new, |names| names.0);
    let subject = certificate.parsed().tbs_certificate().subject();
    let permitted = constraints.permitted_subtrees.as_deref().unwrap_or_default();
    let excluded = constraints.excluded_subtrees.as_deref().unwrap_or_default();
    for subtree in permitted.iter().chain(excluded) {
        if subtree.minimum != 0 || subtree.maximum.is_some() {
            return refuse("is under name constraints with a distance, which are not judged here");
        }
        let same_kind = |name: &GeneralName| mem::discriminant(name) == mem::discriminant(&subtree.base);
        if !matches!(subtree.base, GeneralName::DirectoryName(_)) && names.iter().any(same_kind) {
            return refuse("has a name of a kind whose constraints are not judged here");
        }
    }
    let directory = names.iter().filter_map(|name| if let GeneralName::DirectoryName(name) = name { Some(name) } else { None });
    for name in directory.chain([subject]).filter(|name| !name.is_empty()) {
        let mut bases = permitted.iter().filter_map(base).peekable();
        if bases.peek().is_some() && !bases.any(|base| is_below(name, base)) {
            return refuse("has a name outside those that its issuer may give");
        }
        if excluded.iter().filter_map(base).any(|base| may_be_below(name, base)) {
            return refuse("has a name of those that its issuer may not give");
        }
    }
    Ok(())
}

fn base(subtree: &GeneralSubtree) -> Option<&Name> {
    if let GeneralName::DirectoryName(name) = &subtree.base { Some(name) } else { None }
}

fn is_below(name: &Name, base: &Name) -> bool {
    name.iter_rdn().count() >= base.iter_rdn().count() && name.iter_rdn().zip(base.iter_rdn()).all(|(a, b)| a == b)
}

/// The same, but forgiving case and kind of string: what may be excluded is excluded.
fn may_be_below(name: &Name, base: &Name) -> bool {
    let loose = |name: &Name| name.iter_rdn().map(|part| part.to_string().to_lowercase()).collect::<Vec<_>>();
    loose(name).starts_with(&loose(base))
}

const CPS: x509_cert::der::asn1::ObjectIdentifier = x509_cert::der::asn1::ObjectIdentifier::new_unwrap("1.3.6.1.5.5.7.2.1");
const USER_NOTICE: x509_cert::der::asn1::ObjectIdentifier =
    x509_cert::der::asn1::ObjectIdentifier::new_unwrap("1.3.6.1.5.5.7.2.2");
