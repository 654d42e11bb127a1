//! Runs that are trained at once on one model, step by step in turn. Each is what it would be alone.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use super::adapted_model::AdaptedModel;
use super::events::{Observer, Summary};
use super::frozen::Frozen;
use super::session::{Base, Session};
use super::subject::ADAPTER;
use crate::adapter::{Held, changes_nothing, hold};
use crate::data::{Batch, BatchPlan, Batches, Dataset, Position, Steps};
use crate::{Error, Result};

/// A run among others.
pub(super) struct Lane<'a> {
    name: &'a str,
    session: Session<'a>,
    /// Its adapter, while another's is on the model.
    held: Option<Held>,
    /// How it ended.
    summary: Option<Summary>,
}

/// All runs, and the model under them.
pub(super) struct Lanes<'a> {
    base: Base,
    lanes: Vec<Lane<'a>>,
    /// The one whose adapter is on the model.
    current: usize,
    /// The base model's bytes before the first step.
    frozen: Frozen,
    begun: Instant,
}

/// What hands out the steps of a data set.
trait Feed {
    fn next(&mut self) -> Result<(Vec<Batch>, Position)>;
}

impl Feed for Steps<'_> {
    fn next(&mut self) -> Result<(Vec<Batch>, Position)> {
        let batches = self.next_step()?.batches;
        Ok((batches, self.position()))
    }
}

/// The data of a run: where its next step is, and how many are left.
type Source = (Arc<dyn Dataset>, BatchPlan, Position, usize);

/// Calls `work` with what hands out the steps of each source.
fn with_feeds(
    sources: &[Source],
    opened: Vec<&mut dyn Feed>,
    work: &mut dyn FnMut(Vec<&mut dyn Feed>) -> Result<()>,
) -> Result<()> {
    let Some(((data, plan, position, left), others)) = sources.split_first() else { return work(opened) };
    Batches::new(&**data, *plan, *position)?.ahead(*left, |steps| {
        let mut opened: Vec<&mut dyn Feed> = opened.into_iter().map(|feed| feed as &mut dyn Feed).collect();
        opened.push(steps);
        with_feeds(others, opened, work)
    })
}

impl<'a> Lanes<'a> {
    /// The first run, whose adapter is on the model.
    pub fn new(base: Base, name: &'a str, session: Session<'a>, begun: Instant) -> Self {
        let frozen = Frozen::of(base.adapted.model());
        let lanes = vec![Lane { name, session, held: None, summary: None }];
        Self { base, lanes, current: 0, frozen, begun }
    }

    /// Takes the adapter that is on the model off it, opens another run, and adds that.
    pub fn open(
        mut self,
        name: &'a str,
        open: impl FnOnce(&mut Option<Base>) -> Result<Session<'a>>,
    ) -> Result<Self> {
        let current = self.current;
        self.lanes[current].held = Some(hold(self.base.adapted.model_mut(), ADAPTER));
        let mut base = Some(self.base);
        let session = open(&mut base)?;
        let lost = || Error::Usage("the model is gone".into());
        self.lanes.push(Lane { name, session, held: None, summary: None });
        Ok(Self { base: base.ok_or_else(lost)?, current: current + 1, ..self })
    }

    /// Makes the output folders ready.
    pub fn begin(&mut self, overwrite: bool) -> Result<()> {
        self.lanes.iter_mut().try_for_each(|lane| {
            let begun = lane.session.begin(overwrite);
            begun.map_err(|error| if lane.name.is_empty() { error } else { error.of_adapter(lane.name) })
        })
    }

    /// Puts the adapter of a run on the model, and tells whose turn it is.
    fn turn(
        &mut self,
        index: usize,
        observer: &mut dyn Observer,
    ) -> Result<(&mut Session<'a>, &mut AdaptedModel)> {
        let Self { base, lanes, current, .. } = self;
        if lanes.len() > 1 {
            observer.turn(lanes[index].name);
        }
        let model = base.adapted.model_mut();
        if *current != index {
            lanes[*current].held = Some(hold(model, ADAPTER));
            if let Some(held) = lanes[index].held.take() {
                held.put(model, ADAPTER)?;
            }
            *current = index;
        }
        Ok((&mut lanes[index].session, &mut base.adapted))
    }

    /// Takes the steps that are left, one of each run in turn.
    pub fn train(&mut self, observer: &mut dyn Observer, stop: &AtomicBool) -> Result<()> {
        for index in 0..self.lanes.len() {
            let (session, adapted) = self.turn(index, observer)?;
            session.started(adapted, observer);
        }
        let sources: Vec<Source> = self.lanes.iter().map(|lane| lane.session.feed()).collect();
        let result = with_feeds(&sources, Vec::new(), &mut |feeds| self.take_turns(feeds, observer, stop));
        let Err(error) = result else { return Ok(()) };
        // What went wrong says more than that a checkpoint could not be written.
        let name = self.lanes[self.current].name;
        match self.save_others(observer) {
            Err(other) if matches!(error, Error::Interrupted { .. }) => Err(other),
            _ if name.is_empty() => Err(error),
            _ => Err(error.of_adapter(name)),
        }
    }

    fn take_turns(
        &mut self,
        mut feeds: Vec<&mut dyn Feed>,
        observer: &mut dyn Observer,
        stop: &AtomicBool,
    ) -> Result<()> {
        for index in 0..self.lanes.len() {
            let (session, adapted) = self.turn(index, observer)?;
            session.catch_up(adapted, observer, stop)?;
        }
        while self.lanes.iter().any(|lane| !lane.session.is_over()) {
            for (index, feed) in feeds.iter_mut().enumerate() {
                if !self.lanes[index].session.is_over() {
                    let step = feed.next()?;
                    let (session, adapted) = self.turn(index, observer)?;
                    session.take(adapted, step, observer, stop)?;
                    if session.is_over() {
                        self.write(index, observer)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Writes checkpoints of the runs that are not the one that was interrupted, or failed.
    fn save_others(&mut self, observer: &mut dyn Observer) -> Result<()> {
        let interrupted = self.current;
        for index in (0..self.lanes.len()).filter(|index| *index != interrupted) {
            if !self.lanes[index].session.is_over() {
                let (session, adapted) = self.turn(index, observer)?;
                session.save(adapted)?;
            }
        }
        Ok(())
    }

    /// Writes the result of a run, if the base model is what it was. What happens to the others afterwards does not matter
    /// to it.
    fn write(&mut self, index: usize, observer: &mut dyn Observer) -> Result<()> {
        self.frozen.check(self.base.adapted.model())?;
        let begun = self.begun;
        let (session, adapted) = self.turn(index, observer)?;
        let summary = session.finish(adapted, begun)?;
        if session.adapter().is_some_and(|adapter| changes_nothing(adapted.model(), adapter)) {
            observer.note("the adapter changes nothing: the model answers under it as without");
        }
        self.lanes[index].summary = Some(summary);
        Ok(())
    }

    /// Writes the results that are not written yet, and gives all summaries.
    pub fn finish(mut self, observer: &mut dyn Observer) -> Result<Vec<Summary>> {
        for index in 0..self.lanes.len() {
            if self.lanes[index].summary.is_none() {
                self.write(index, observer)?;
            }
        }
        Ok(self.lanes.into_iter().filter_map(|lane| lane.summary).collect())
    }
}
