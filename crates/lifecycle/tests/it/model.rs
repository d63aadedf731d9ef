//! What holds in every state that platform, network and node can reach together, whatever breaks and in whatever order.

use casemate_lifecycle::{Intent, Machine, Step};
use stateright::{Checker as _, Model, Property};

use crate::world::{Happening, World};

/// Breaks, deaths, stops and lost trust in one history. Three are enough for a trouble during the recovery from a trouble during the
/// recovery from a trouble.
const TROUBLES: u8 = 3;

struct Histories;

impl Model for Histories {
    type State = World;
    type Action = Happening;

    fn init_states(&self) -> Vec<World> {
        [true, false].map(|good| World::new(good, TROUBLES)).to_vec()
    }

    fn actions(&self, world: &World, actions: &mut Vec<Happening>) {
        actions.extend(Happening::ALL.into_iter().filter(|happening| world.after(*happening).is_some()));
    }

    fn next_state(&self, world: &World, happening: Happening) -> Option<World> {
        world.after(happening)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("keys go only to a guest whose evidence was found good", |_, world: &World| {
                world.node.guest.good || !world.node.guest.keyed
            }),
            Property::always("no instance is started twice", |_, world: &World| world.node.starts <= 1),
            Property::always("nothing waits for an instance that is to end", |_, world: &World| {
                let course = &world.platform.course;
                !course.keys_wait || (course.intent == Intent::Run && course.actual.failure.is_none())
            }),
            Property::always("every history ends, with nothing left and a receipt", |_, world: &World| {
                world.settled().is_some_and(|end| end.is_over())
            }),
            Property::always("a node that lost its trust ends with nothing running", |_, world: &World| {
                world.platform.trusted || world.settled().is_some_and(|end| end.node.machine == Machine::Absent)
            }),
            Property::sometimes("a workload runs", |_, world: &World| world.platform.course.actual.step == Step::Running),
            Property::sometimes("a workload ends by itself", |_, world: &World| {
                world.platform.course.actual.exit_code.is_some() && world.is_over()
            }),
            Property::sometimes("a guest is refused", |_, world: &World| {
                world.platform.course.actual.failure.as_ref().is_some_and(|failure| failure.check == "guest.kernel")
            }),
        ]
    }
}

#[test]
fn no_history_breaks_a_promise() {
    let checker = Histories.checker().threads(2).spawn_bfs().join();
    println!("{} different states, {} in all", checker.unique_state_count(), checker.state_count());
    checker.assert_properties();
}
