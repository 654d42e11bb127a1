//! Parameters: what a module has leaves for.

use super::layout::AdapterId;
use super::leaf::Leaf;
use super::token_rows::TokenRows;
use crate::tensor::{Shape, Tensor};
use crate::{Error, Result};

/// How a checkpoint writes a parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// As it is here.
    Plain,
    /// With rows and columns exchanged: the weight of GPT-2's `Conv1D`.
    Transposed,
    /// With other dimensions over the same elements: the weight of a convolution over patches.
    Reshaped(Shape),
}

/// A named tensor of a module: its shape, its value in the base model once there is one, and the values that
/// adapters put in its place (a bias or a head that was trained with the adapter).
#[derive(Clone, Debug)]
pub struct Parameter {
    name: String,
    shape: Shape,
    form: Form,
    tied_to: Option<&'static str>,
    base: Option<Leaf>,
    replacements: Vec<(AdapterId, Leaf)>,
    rows: Vec<(AdapterId, TokenRows)>,
}

impl Parameter {
    /// A parameter of which only the shape is known.
    pub fn new(shape: impl Into<Shape>) -> Self {
        Self {
            name: String::new(),
            shape: shape.into(),
            form: Form::Plain,
            tied_to: None,
            base: None,
            replacements: Vec::new(),
            rows: Vec::new(),
        }
    }

    /// The same parameter, which checkpoints write in another form.
    #[must_use]
    pub fn with_form(mut self, form: Form) -> Self {
        self.form = form;
        self
    }

    /// The same parameter, which is another name of the one that is called `name`: it has no value of its own in the
    /// base model, is not counted and not saved.
    #[must_use]
    pub fn tied_to(mut self, name: &'static str) -> Self {
        self.tied_to = Some(name);
        self
    }

    /// The parameter that this is another name of.
    pub fn tie(&self) -> Option<&'static str> {
        self.tied_to
    }

    /// The parameter whose value it has in the base model, where it has none of its own.
    pub fn shares(&self) -> Option<&'static str> {
        self.tied_to.filter(|_| self.base.is_none())
    }

    /// Makes the parameter another name of the one that is called `name` after all.
    pub fn tie_to(&mut self, name: &'static str) {
        self.tied_to = Some(name);
    }

    /// Gives the parameter a value of its own after all.
    pub fn untie(&mut self) {
        self.tied_to = None;
    }

    /// The shape in a checkpoint.
    pub fn file_shape(&self) -> Shape {
        match self.form {
            Form::Plain => self.shape,
            Form::Transposed => Shape::from([self.shape.width(), self.shape.rows()]),
            Form::Reshaped(shape) => shape,
        }
    }

    /// A value of a checkpoint in the form that it has here.
    pub fn from_file(&self, value: Tensor) -> Tensor {
        match self.form {
            Form::Plain => value,
            Form::Transposed => value.transposed(),
            Form::Reshaped(_) => value.reshape(self.shape),
        }
    }

    /// Whether it is a matrix in a checkpoint, too.
    pub fn is_matrix(&self) -> bool {
        self.file_shape().rank() == 2 && self.shape.rank() == 2
    }

    /// A value in the form of a checkpoint.
    pub fn to_file(&self, value: &Tensor) -> Tensor {
        match self.form {
            Form::Plain => value.clone(),
            Form::Transposed => value.transposed(),
            Form::Reshaped(shape) => value.reshape(shape),
        }
    }

    /// Whether a checkpoint has it with rows and columns exchanged.
    pub fn is_transposed(&self) -> bool {
        self.form == Form::Transposed
    }

    /// The canonical name: the path in the model, and the key in a checkpoint. Empty before it is given.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Gives the parameter its name.
    pub fn set_name(&mut self, name: impl Into<String>) {
        self.name = name.into();
    }

    /// The shape.
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// The base model's value, if there is one.
    pub fn base(&self) -> Option<&Leaf> {
        self.base.as_ref()
    }

    /// The base model's value, for writing.
    pub fn base_mut(&mut self) -> Option<&mut Leaf> {
        self.base.as_mut()
    }

    /// Sets the base model's value.
    ///
    /// # Errors
    /// If the shape is another one.
    pub fn set_base(&mut self, leaf: Leaf) -> Result<()> {
        self.check(&leaf)?;
        self.base = Some(leaf);
        Ok(())
    }

    /// Forgets the base model's value.
    pub fn clear_base(&mut self) {
        self.base = None;
    }

    /// Sets the value that stands in for the base model's where `adapter` is active.
    ///
    /// # Errors
    /// If the shape is another one.
    pub fn set_replacement(&mut self, adapter: AdapterId, leaf: Leaf) -> Result<()> {
        self.check(&leaf)?;
        match self.replacements.iter_mut().find(|(id, _)| *id == adapter) {
            Some((_, old)) => *old = leaf,
            None => self.replacements.push((adapter, leaf)),
        }
        Ok(())
    }

    /// The value that `adapter` brought along.
    pub fn replacement(&self, adapter: AdapterId) -> Option<&Leaf> {
        self.replacements.iter().find(|(id, _)| *id == adapter).map(|(_, leaf)| leaf)
    }

    /// The value that `adapter` brought along, for writing.
    pub fn replacement_mut(&mut self, adapter: AdapterId) -> Option<&mut Leaf> {
        self.replacements.iter_mut().find(|(id, _)| *id == adapter).map(|(_, leaf)| leaf)
    }

    /// Forgets what `adapter` brought along.
    pub fn remove_replacement(&mut self, adapter: AdapterId) {
        self.replacements.retain(|(id, _)| *id != adapter);
    }

    /// Sets the rows that `adapter` has values of its own for.
    ///
    /// # Errors
    /// If the parameter is no matrix of that width, or has no such rows.
    pub fn set_rows(&mut self, adapter: AdapterId, rows: TokenRows) -> Result<()> {
        let (entries, width) = (self.shape.rows(), self.shape.width());
        let is_inside = rows.ids.iter().all(|id| (*id as usize) < entries);
        if rows.values.value().shape() != Shape::from([rows.ids.len(), width]) || !is_inside {
            let (name, shape) = (&self.name, self.shape);
            return Err(Error::Usage(format!("{name} has the shape {shape}, and not these rows")));
        }
        self.remove_rows(adapter);
        self.rows.push((adapter, rows));
        Ok(())
    }

    /// The rows that `adapter` has values of its own for.
    pub fn rows(&self, adapter: AdapterId) -> Option<&TokenRows> {
        self.rows.iter().find(|(id, _)| *id == adapter).map(|(_, rows)| rows)
    }

    /// The same of all adapters, for writing.
    pub fn rows_mut(&mut self) -> impl Iterator<Item = (AdapterId, &mut TokenRows)> {
        self.rows.iter_mut().map(|(adapter, rows)| (*adapter, rows))
    }

    /// The rows that stand in for those of the value that [`Parameter::active_or_tied`] gives.
    pub fn active_rows<'a>(
        &'a self,
        adapter: Option<AdapterId>,
        tied: Option<&'a Self>,
    ) -> Option<&'a TokenRows> {
        let adapter = adapter.filter(|adapter| self.replacement(*adapter).is_none())?;
        if self.base.is_some() { self.rows(adapter) } else { tied?.rows(adapter) }
    }

    /// Forgets the rows of `adapter`.
    pub fn remove_rows(&mut self, adapter: AdapterId) {
        self.rows.retain(|(id, _)| *id != adapter);
    }

    /// Every value, the base model's first, for freezing and training.
    pub fn leaves_mut(&mut self) -> impl Iterator<Item = &mut Leaf> {
        self.owned_leaves_mut().map(|(_, leaf)| leaf)
    }

    /// Every value with the adapter that brought it along, the base model's first.
    pub fn owned_leaves_mut(&mut self) -> impl Iterator<Item = (Option<AdapterId>, &mut Leaf)> {
        let base = self.base.iter_mut().map(|leaf| (None, leaf));
        base.chain(self.replacements.iter_mut().map(|(adapter, leaf)| (Some(*adapter), leaf)))
    }

    /// The value that holds where `adapter` is active.
    ///
    /// # Errors
    /// If neither the adapter nor the base model has one.
    pub fn active(&self, adapter: Option<AdapterId>) -> Result<&Leaf> {
        adapter.and_then(|id| self.replacement(id)).or(self.base.as_ref()).ok_or_else(|| {
            Error::Usage(format!("{} has no value: load the weights or an adapter that has it", self.name))
        })
    }

    /// As [`Parameter::active`], where another parameter's value in the base model stands in for one that this has not:
    /// the one that it is another name of. What an adapter put in that one's place is not this one's.
    ///
    /// # Errors
    /// As [`Parameter::active`].
    ///
    /// # Source
    /// PEFT copies a tied module that it trains whole, and the modules that it was tied to keep the base model's value.
    pub fn active_or_tied<'a>(
        &'a self,
        adapter: Option<AdapterId>,
        tied: Option<&'a Self>,
    ) -> Result<&'a Leaf> {
        match (self.active(adapter), tied.and_then(Self::base)) {
            (Err(_), Some(leaf)) => Ok(leaf),
            (own, _) => own,
        }
    }

    fn check(&self, leaf: &Leaf) -> Result<()> {
        if leaf.shape() == self.shape {
            return Ok(());
        }
        let (name, shape, got) = (&self.name, self.shape, leaf.shape());
        Err(Error::Usage(format!("{name} has the shape {shape}, not {got}")))
    }
}
