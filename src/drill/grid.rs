//! The grid: who (domain) by where (layer), so that no average hides a failed cell. Pure.

use std::collections::BTreeMap;

use serde::Serialize;

use super::identity::Domain;
use super::probe::{Grade, Layer, Probe};
use super::verdict::Verdict;

/// How a cell stands; worst first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    Exposed,
    LockedOut,
    Unclear,
    Degraded,
    Kept,
    /// The layer was asked and has nobody of that domain.
    Nobody,
    NotAsked,
}

impl State {
    #[must_use]
    pub fn words(self) -> &'static str {
        match self {
            Self::Exposed => "exposed",
            Self::LockedOut => "locked out",
            Self::Unclear => "unclear",
            Self::Degraded => "less",
            Self::Kept => "kept",
            Self::Nobody => "nobody",
            Self::NotAsked => "not asked",
        }
    }

    /// The state that what a difference forces means for its cell.
    #[must_use]
    pub fn of(verdict: Verdict) -> Self {
        match verdict {
            Verdict::Invalid | Verdict::Exposed => Self::Exposed,
            Verdict::LockedOut => Self::LockedOut,
            Verdict::Inconclusive => Self::Unclear,
            Verdict::Degraded => Self::Degraded,
            Verdict::Survives => Self::Kept,
        }
    }
}

/// The state that probes about somebody leave: what the verdict says of them, so that grid and verdict never disagree.
#[must_use]
pub fn state_of(probes: &[Probe]) -> State {
    probes.iter().filter_map(|probe| probe.gate).map(State::of).min().unwrap_or(State::Kept)
}

/// One domain in one layer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Cell {
    pub state: State,
    /// Who should be able to get in, and who is there.
    pub expected: usize,
    pub found: usize,
    /// Differences, of whatever class.
    pub differences: usize,
    /// The best evidence there is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grade: Option<Grade>,
}

impl Default for Cell {
    fn default() -> Self {
        Self { state: State::NotAsked, expected: 0, found: 0, differences: 0, grade: None }
    }
}

/// Every domain by every identity layer; what was not asked says so.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Grid(BTreeMap<Domain, BTreeMap<Layer, Cell>>);

impl Default for Grid {
    fn default() -> Self {
        let row = || Layer::IDENTITY.into_iter().map(|layer| (layer, Cell::default())).collect();
        Self(Domain::ALL.into_iter().map(|domain| (domain, row())).collect())
    }
}

impl Grid {
    /// The cell of a domain in a layer; cells outside the identity layers are always "not asked".
    #[must_use]
    pub fn cell(&self, domain: Domain, layer: Layer) -> Cell {
        self.0.get(&domain).and_then(|row| row.get(&layer)).cloned().unwrap_or_default()
    }

    /// Says that a layer was asked about a domain: `expected` people, `found` people.
    pub fn count(&mut self, domain: Domain, layer: Layer, expected: usize, found: usize, grade: Grade) {
        let Some(cell) = self.at(domain, layer) else { return };
        cell.expected += expected;
        cell.found += found;
        let state = if cell.expected + cell.found == 0 { State::Nobody } else { State::Kept };
        cell.state = match cell.state {
            State::NotAsked | State::Nobody => state,
            asked => asked.min(state),
        };
        if state != State::Nobody {
            cell.grade = cell.grade.max(Some(grade));
        }
    }

    /// Something differs there.
    pub fn differs(&mut self, domain: Domain, layer: Layer, verdict: Option<Verdict>) {
        let Some(cell) = self.at(domain, layer) else { return };
        cell.differences += 1;
        if let Some(verdict) = verdict {
            cell.state = cell.state.min(State::of(verdict));
        }
    }

    /// Somebody of that domain was seen getting in, or not.
    pub fn seen(&mut self, domain: Domain, layer: Layer, state: State, grade: Grade) {
        let Some(cell) = self.at(domain, layer) else { return };
        cell.state = cell.state.min(state);
        cell.grade = cell.grade.max(Some(grade));
    }

    /// The worst of the cells that were asked.
    #[must_use]
    pub fn worst(&self) -> Option<(Domain, Layer, State)> {
        let cells = self.0.iter().flat_map(|(domain, row)| row.iter().map(|(layer, cell)| (*domain, *layer, cell)));
        let asked = cells.filter(|(_, _, cell)| cell.state < State::Nobody);
        asked.map(|(domain, layer, cell)| (domain, layer, cell.state)).min_by_key(|(_, _, state)| *state)
    }

    fn at(&mut self, domain: Domain, layer: Layer) -> Option<&mut Cell> {
        self.0.get_mut(&domain).and_then(|row| row.get_mut(&layer))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_grid_that_nobody_filled_says_that_nothing_was_asked() {
        let grid = Grid::default();
        for domain in Domain::ALL {
            for layer in Layer::IDENTITY {
                assert_eq!(grid.cell(domain, layer).state, State::NotAsked);
            }
        }
        assert_eq!(grid.worst(), None);
    }

    #[test]
    fn the_worst_cell_is_named_and_good_ones_do_not_make_up_for_it() {
        let mut grid = Grid::default();
        for domain in Domain::ALL {
            grid.count(domain, Layer::Odoo, 9, 9, Grade::AMaterial);
        }
        grid.differs(Domain::Service, Layer::Odoo, Some(Verdict::LockedOut));
        grid.differs(Domain::Partner, Layer::Odoo, Some(Verdict::Exposed));
        grid.differs(Domain::Partner, Layer::Odoo, None);
        assert_eq!(grid.worst(), Some((Domain::Partner, Layer::Odoo, State::Exposed)));
        assert_eq!(grid.cell(Domain::Partner, Layer::Odoo).differences, 2);
    }

    #[test]
    fn a_second_database_never_improves_a_cell() {
        let mut grid = Grid::default();
        grid.count(Domain::Workforce, Layer::Odoo, 2, 1, Grade::AMaterial);
        grid.differs(Domain::Workforce, Layer::Odoo, Some(Verdict::LockedOut));
        grid.count(Domain::Workforce, Layer::Odoo, 5, 5, Grade::AMaterial);
        let cell = grid.cell(Domain::Workforce, Layer::Odoo);
        assert_eq!((cell.state, cell.expected, cell.found), (State::LockedOut, 7, 6));
    }

    #[test]
    fn a_cell_never_looks_better_than_what_its_probes_force() {
        use crate::drill::probe::{Kind, Probes, Seen};
        let quiet = crate::watch::Quiet::default();
        let mut probes = Probes::new(&quiet);
        let kind = Kind { id: "odoo.sign_in", layer: Layer::Odoo, grade: Grade::AReal };
        assert_eq!(state_of(&probes.made), State::Kept);
        let seen = [
            (Seen::passed("in"), State::Kept),
            (Seen::not_asked("no"), State::Kept),
            (Seen::missing("no second factor"), State::Unclear),
            (Seen::failed(Verdict::LockedOut, "refused"), State::LockedOut),
            (Seen::failed(Verdict::Exposed, "wrong password"), State::Exposed),
        ];
        for (seen, state) in seen {
            probes.add(kind, seen, 0.0);
            assert_eq!(state_of(&probes.made), state);
        }
    }

    #[test]
    fn an_empty_cell_is_nobody_and_has_no_evidence() {
        let mut grid = Grid::default();
        grid.count(Domain::BreakGlass, Layer::Odoo, 0, 0, Grade::AMaterial);
        let cell = grid.cell(Domain::BreakGlass, Layer::Odoo);
        assert_eq!((cell.state, cell.grade), (State::Nobody, None));
    }
}
