//! Steps made ready by another thread while the one before is taken.

use std::panic::resume_unwind;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use super::batch::Batch;
use super::batches::{Batches, Position};
use crate::{Error, Result};

/// The steps of a data set, one after the other.
#[derive(Debug)]
pub struct Steps<'a> {
    source: Source<'a>,
    position: Position,
}

#[derive(Debug)]
enum Source<'a> {
    Here(Box<Batches<'a>>),
    Ahead(Receiver<Result<Made>>),
}

/// A step that was made ready.
#[derive(Debug)]
struct Made {
    step: StepBatches,
    /// Where the next one is.
    position: Position,
}

/// The batches of a step.
#[derive(Debug)]
pub struct StepBatches {
    /// The rows of the data set in all of them.
    pub rows: Vec<u32>,
    /// At most as many as a step accumulates.
    pub batches: Vec<Batch>,
}

impl Steps<'_> {
    /// Where the next step is.
    pub fn position(&self) -> Position {
        self.position
    }

    /// Takes the next step.
    ///
    /// # Errors
    /// As [`Batches::next_step`]; if more steps are taken than were announced.
    pub fn next_step(&mut self) -> Result<StepBatches> {
        let made = match &mut self.source {
            Source::Here(batches) => make(batches)?,
            Source::Ahead(receiver) => {
                let none = |_| Error::Usage("there are no more steps".to_owned());
                receiver.recv().map_err(none)??
            }
        };
        self.position = made.position;
        Ok(made.step)
    }
}

impl Batches<'_> {
    /// Hands `work` the steps from here on, of which it takes at most `count`. Where the data set asks for it
    /// ([`Dataset::reads_ahead`](super::Dataset::reads_ahead)), another thread makes each step ready while `work` is
    /// busy with the one before. The steps are the same either way, and an error comes with its own step.
    ///
    /// # Errors
    /// What `work` gives; [`Error::Usage`] if the system gives no thread.
    pub fn ahead<T>(self, count: usize, work: impl FnOnce(&mut Steps<'_>) -> Result<T>) -> Result<T> {
        let position = self.position();
        // A thread of the pool that waits would keep it from the reading, which is spread over the pool.
        let within_pool = rayon::current_thread_index().is_some();
        if !self.dataset().reads_ahead() || within_pool {
            return work(&mut Steps { source: Source::Here(Box::new(self)), position });
        }
        thread::scope(|scope| {
            // Without room of its own: the maker holds the step that is ahead until it is taken.
            let (sender, receiver) = sync_channel(0);
            let maker = thread::Builder::new().name("batches".to_owned());
            let maker = maker.spawn_scoped(scope, move || make_all(self, count, &sender));
            let no_thread = |error| Error::Usage(format!("no thread to make batches in: {error}"));
            let maker = maker.map_err(no_thread)?;
            let result = work(&mut Steps { source: Source::Ahead(receiver), position });
            // Nobody listens any more, so that the maker ends with the step that it is at.
            match maker.join() {
                Ok(()) => result,
                Err(cause) => resume_unwind(cause),
            }
        })
    }
}

fn make_all(mut batches: Batches<'_>, count: usize, sender: &SyncSender<Result<Made>>) {
    for _ in 0..count {
        let made = make(&mut batches);
        let failed = made.is_err();
        if sender.send(made).is_err() || failed {
            return;
        }
    }
}

fn make(batches: &mut Batches<'_>) -> Result<Made> {
    let rows = batches.rows().to_vec();
    let step = StepBatches { rows, batches: batches.next_step()? };
    Ok(Made { step, position: batches.position() })
}
