//! The rules, a file per family. Each is a function from a parsed document to
//! remarks; what is decided and why stands in the file that decides it.

pub(crate) mod encoding;
pub(crate) mod fences;
pub(crate) mod headings;
pub(crate) mod links;
pub(crate) mod secrets;
pub(crate) mod text;
