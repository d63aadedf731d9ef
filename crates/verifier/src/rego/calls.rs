//! How deep the rules of a policy call each other: the engine does so on the stack of its thread.

use std::collections::BTreeMap;

use regorus::rvm::{Instruction, program::Program};

use super::PolicyError;

/// Deepest chain of rules and functions.
const MAX_CALLS: usize = 32;

/// Refuses rules that call themselves, chains longer than [`MAX_CALLS`], and look-ups of rules by a computed name, of which
/// only a run shows what they call.
pub(super) fn are_shallow(program: &Program) -> Result<(), PolicyError> {
    let owners = owners(program);
    let mut calls: Vec<Vec<usize>> = vec![Vec::new(); program.rule_infos.len()];
    for (at, instruction) in program.instructions.iter().enumerate() {
        let called = match instruction {
            Instruction::CallRule { rule_index, .. } => usize::from(*rule_index),
            Instruction::FunctionCall { params_index } => {
                let params = program.instruction_data.function_call_params.get(usize::from(*params_index));
                usize::from(params.ok_or_else(unclear)?.func_rule_index)
            }
            Instruction::VirtualDataDocumentLookup { .. } => return Err(unclear()),
            _ => continue,
        };
        let owner = owners.range(..=at).next_back().and_then(|(_, owner)| *owner);
        if let Some(calls) = owner.and_then(|owner| calls.get_mut(owner)) {
            calls.push(called);
        }
    }
    // After as many rounds as the chain may have members nothing changes any more, unless it is longer or has no end.
    let mut depth = vec![1_usize; calls.len()];
    for _ in 0..=MAX_CALLS {
        let deeper = |calls: &Vec<usize>| 1 + calls.iter().filter_map(|rule| depth.get(*rule)).max().copied().unwrap_or_default();
        depth = calls.iter().map(deeper).collect();
    }
    if depth.iter().all(|depth| *depth <= MAX_CALLS) {
        return Ok(());
    }
    Err(PolicyError::Function(format!("rules that call each other in a circle or more than {MAX_CALLS} deep")))
}

/// Where the instructions of a rule begin, body by body; those of the entry points belong to none.
fn owners(program: &Program) -> BTreeMap<usize, Option<usize>> {
    let mut owners: BTreeMap<usize, Option<usize>> = program.entry_points.values().map(|at| (*at, None)).collect();
    for (index, rule) in program.rule_infos.iter().enumerate() {
        let bodies = rule.definitions.iter().flatten().copied();
        let blocks = rule.destructuring_blocks.iter().flatten().copied();
        let starts = bodies.chain(blocks).filter_map(|at| usize::try_from(at).ok());
        owners.extend(starts.map(|at| (at, Some(index))));
    }
    owners
}

fn unclear() -> PolicyError {
    PolicyError::Function("a rule by a computed name".to_owned())
}
