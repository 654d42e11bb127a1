//! Which columns of a table hold what.

use crate::{Error, Result};

macro_rules! columns {
    ($($(#[$doc:meta])* $field:ident,)*) => {
        /// The names of the columns to read; where one is absent the task's usual names are tried.
        #[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
        #[serde(default, deny_unknown_fields)]
        pub struct Columns {
            $($(#[$doc])* pub $field: Option<String>,)*
        }

        impl Columns {
            /// What a column can be named for.
            pub const ROLES: &'static [&'static str] = &[$(stringify!($field)),*];

            /// The roles that have a name, and the names.
            pub fn iter(&self) -> impl Iterator<Item = (&'static str, &str)> {
                [$((stringify!($field), self.$field.as_deref())),*]
                    .into_iter()
                    .filter_map(|(role, name)| Some((role, name?)))
            }

            /// Takes over the names that another has.
            pub fn extend(&mut self, other: &Self) {
                $(if other.$field.is_some() {
                    self.$field.clone_from(&other.$field);
                })*
            }

            fn field(&mut self, role: &str) -> Option<&mut Option<String>> {
                $(if role == stringify!($field) {
                    return Some(&mut self.$field);
                })*
                None
            }
        }
    };
}

columns! {
    /// The text, or the first of a pair; a document.
    text,
    /// The second text of a pair; an empty name says that there is none.
    text_pair,
    /// The label.
    label,
    /// What is given before a completion: an instruction, a question.
    prompt,
    /// What an instruction is about; an empty name says that there is none.
    input,
    /// What is to follow.
    completion,
    /// What the assistant is told before the conversation.
    system,
    /// The images.
    image,
    /// A conversation.
    messages,
    /// The tools that the assistant may call.
    tools,
    /// What is to be turned into something else; of a translation, its language.
    source,
    /// What it is to become; of a translation, its language.
    target,
}

impl Columns {
    /// Names the column of a role.
    ///
    /// # Errors
    /// [`Error::UnknownName`] if no column has this role.
    ///
    /// ```
    /// use lowrank::data::Columns;
    ///
    /// let mut columns = Columns::default();
    /// columns.set("text", "review")?;
    /// assert!(columns.set("txt", "review").is_err());
    /// # Ok::<(), lowrank::Error>(())
    /// ```
    pub fn set(&mut self, role: &str, name: &str) -> Result<()> {
        let unknown = || Error::unknown("column", role, Self::ROLES.iter().copied());
        *self.field(role).ok_or_else(unknown)? = Some(name.to_owned());
        Ok(())
    }
}
