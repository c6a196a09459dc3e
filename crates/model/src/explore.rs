//! Explores a model completely, and reports counterexamples as a list of steps.

use std::fmt::{Debug, Write};
use std::hash::Hash;

use stateright::{Checker, Expectation, HasDiscoveries, Model};

/// A model whose steps can be described.
pub trait Told: Model {
    /// Describes what a step does in this state.
    fn tell(&self, state: &Self::State, step: &Self::Action) -> String;
}

/// The result of an exploration.
#[derive(Debug)]
pub struct Explored {
    /// The number of distinct states.
    pub states: usize,
    /// The properties that do not hold, each with the steps that show it.
    pub broken: Vec<(&'static str, String)>,
    /// The properties that should hold in some state, but hold in none.
    pub never: Vec<&'static str>,
}

/// Visits every state.
pub fn explore<M>(model: M) -> Explored
where
    M: Told + Clone + Send + Sync + 'static,
    M::State: Clone + Debug + Hash + PartialEq + Send + Sync + 'static,
    M::Action: Clone + Debug + PartialEq + 'static,
{
    let checker = model.clone().checker().finish_when(HasDiscoveries::AnyFailures);
    // Depth-first takes the least memory.
    report(&model, &checker.spawn_dfs().join())
}

/// Visits states breadth-first, until one violates a property.
pub fn find<M>(model: M) -> Explored
where
    M: Told + Clone + Send + Sync + 'static,
    M::State: Clone + Debug + Hash + PartialEq + Send + Sync + 'static,
    M::Action: Clone + Debug + PartialEq + 'static,
{
    let checker = model.clone().checker().finish_when(HasDiscoveries::AnyFailures);
    report(&model, &checker.spawn_bfs().join())
}

fn report<M>(model: &M, checker: &impl Checker<M>) -> Explored
where
    M: Told,
    M::State: Clone + Debug + Hash + PartialEq,
    M::Action: Clone + Debug + PartialEq,
{
    let mut found =
        Explored { states: checker.unique_state_count(), broken: Vec::new(), never: Vec::new() };
    for property in model.properties() {
        let discovery = checker.discovery(property.name);
        match (property.expectation, discovery) {
            (Expectation::Sometimes, None) => found.never.push(property.name),
            (Expectation::Sometimes, Some(_)) | (_, None) => {}
            (_, Some(path)) => {
                let mut story = String::new();
                for (state, step) in path.into_vec() {
                    if let Some(step) = step {
                        let _ = writeln!(story, "  {}", model.tell(&state, &step));
                    }
                }
                found.broken.push((property.name, story));
            }
        }
    }
    found
}
