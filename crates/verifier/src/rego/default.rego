# The policy where the relying party names none: the strictest that a sound machine can meet.
#
# Nothing here says "unless it is stated otherwise": a claim that is absent, of another type or with another value than
# the listed ones is a refusal, and so is a kind of submodule that no rule is for.
package casemate.appraisal

import rego.v1

default allow := false

allow if {
	count(deny) == 0
	count(input.submodules) > 0
	every name, _ in input.submodules {
		name in accepted
	}
	every check in input.checks {
		check.outcome == "pass"
	}
	count(input.checks) > 0
	composition_complete
}

# Names of submodules that a rule for their kind accepts.
accepted contains name if {
	some name, part in input.submodules
	part.kind == "node"
	sound(part)
	is_string(part.claims.agent)
	is_string(part.claims.vmm)
}

accepted contains name if {
	some name, part in input.submodules
	part.kind == "microvm-guest"
	input.platform == "microvm"
	sound(part)
}

# A container is never better than a warning, and only where its very level was asked for.
accepted contains name if {
	some name, part in input.submodules
	part.kind == "container-guest"
	input.platform in {"container", "sandbox"}
	part.claims.level == input.platform
	part.status == "warning"
	part.trust["runtime-opaque"] == 32
	simulation_accepted(part)
	silicon_accepted(part)
}

accepted contains name if {
	some name, part in input.submodules
	part.kind == "snp-guest"
	sound(part)
	part.silicon.generation in {"genoa", "turin"}
	part.claims.generation == part.silicon.generation
	integrity_assured(part)
	part.claims.revocation_checked == true
	part.claims.guest_policy.debug == false
	part.claims.guest_policy.migrate_ma == false
	part.claims.simulated == part.simulated
}

# Nothing is assured of a simulator; where one is allowed, that is known.
integrity_assured(part) if part.claims.integrity_assured == true

integrity_assured(part) if {
	part.simulated == true
	part.claims.integrity_assured == false
	input.policy.allow_simulated == true
}

accepted contains name if {
	some name, part in input.submodules
	part.kind == "tdx-guest"
	sound(part)
	part.claims.tcb.status == "UpToDate"
	part.claims.tcb.qe_status == "UpToDate"
	part.claims.debug == false
	part.claims.migratable == false
	part.claims.platform.simulated == part.simulated
}

accepted contains name if {
	some name, part in input.submodules
	part.kind == "gpu"
	sound(part)
	part.claims.kind == "gpu"
	part.claims.mode in {"multi-passthrough", "single-passthrough"}
	gpu_sound(part)
}

accepted contains name if {
	some name, part in input.submodules
	part.kind == "gpu"
	sound(part)
	part.claims.kind == "switch"
	gpu_sound(part)
}

gpu_sound(part) if {
	is_null(part.claims.refused)
	is_number(part.claims.revocation_known_at)
	part.claims.simulated == part.simulated
}

# What holds for every kind.
sound(part) if {
	part.status == "affirming"
	simulation_accepted(part)
	silicon_accepted(part)
}

simulation_accepted(part) if part.simulated == false

simulation_accepted(part) if {
	part.simulated == true
	input.policy.allow_simulated == true
}

silicon_accepted(part) if part.silicon == null

silicon_accepted(part) if part.silicon.trust == "affirming"

# A node is always there, exactly one guest of the kind that was asked for, and as many GPUs as were asked for.
composition_complete if {
	count(of_kind("node")) == 1
	count(guests) == 1
	guest_fits
	count(gpus) == input.expectation.gpus
}

# A node that asks for its certificate is alone.
composition_complete if {
	input.platform == "node"
	count(of_kind("node")) == 1
	count(input.submodules) == 1
	input.expectation.gpus == 0
}

# Switches are judged, but not counted.
gpus contains name if {
	some name, part in input.submodules
	part.kind == "gpu"
	not part.claims.kind == "switch"
}

guests contains name if {
	some name, part in input.submodules
	part.kind in {"container-guest", "microvm-guest", "snp-guest", "tdx-guest"}
}

guest_fits if {
	input.platform == "microvm"
	count(of_kind("microvm-guest")) == 1
}

guest_fits if {
	input.platform in {"container", "sandbox"}
	count(of_kind("container-guest")) == 1
}

guest_fits if {
	input.platform == "confidential"
	count(of_kind("snp-guest")) + count(of_kind("tdx-guest")) == 1
}

of_kind(kind) := {name | some name, part in input.submodules; part.kind == kind}

# The reasons, for people. `allow` does not rest on them alone.
deny contains ["the submodule", name, "is a simulator's, and the policy does not allow that"] if {
	some name, part in input.submodules
	not simulation_accepted(part)
}

deny contains ["the silicon of", name, "is not to be trusted:", part.silicon.generation] if {
	some name, part in input.submodules
	not silicon_accepted(part)
}

deny contains ["no rule accepts the submodule", name, "of kind", part.kind] if {
	some name, part in input.submodules
	not name in accepted
}

deny contains "the evidence is not of one node, one guest of the expected kind and the expected number of GPUs" if {
	not composition_complete
}

deny contains ["the check", check.name, "did not pass"] if {
	some check in input.checks
	check.outcome != "pass"
}

warn contains ["the TCB of", name, "is more than 180 days old"] if {
	some name, part in input.submodules
	part.tcb_age_s > 15552000
}
