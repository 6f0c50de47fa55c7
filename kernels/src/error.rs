//! The crate's one error type.

use serde::{Deserialize, Serialize};

/// Stable classes of [`Error`], one to one with `error-code` in the host
/// interface.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum ErrorCode {
    /// A handle that the device never gave out, or that was freed.
    BadHandle,
    /// A value outside its documented range.
    InvalidArgument,
    /// Shapes or element types do not fit together.
    ShapeMismatch,
    /// An output overlaps an input or another output.
    Alias,
    /// The device's memory quota is used up, or the machine has no more.
    OutOfMemory,
    /// Too many tensors or operations.
    Quota,
    /// An index in an index tensor was out of range; it was clamped.
    IndexRange,
    /// The device does not exist, or cannot be used any more.
    DeviceLost,
}

/// What went wrong, at which operation, and what to try.
///
/// `op` is the position of the offending operation in the submitted list;
/// `None` outside of a list.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error, Serialize, Deserialize)]
#[allow(missing_docs)]
pub enum Error {
    #[error("{}{detail}", place(.op))]
    BadHandle { op: Option<u32>, detail: String },
    #[error("{}{detail}", place(.op))]
    InvalidArgument { op: Option<u32>, detail: String },
    #[error("{}{detail}", place(.op))]
    ShapeMismatch { op: Option<u32>, detail: String },
    #[error("{}{detail}", place(.op))]
    Alias { op: Option<u32>, detail: String },
    #[error("{}{detail}", place(.op))]
    OutOfMemory { op: Option<u32>, detail: String },
    #[error("{}{detail}", place(.op))]
    Quota { op: Option<u32>, detail: String },
    #[error("{}{detail}", place(.op))]
    IndexRange { op: Option<u32>, detail: String },
    #[error("{}{detail}", place(.op))]
    DeviceLost { op: Option<u32>, detail: String },
}

fn place(op: &Option<u32>) -> String {
    match op {
        Some(op) => format!("operation {op}: "),
        None => String::new(),
    }
}

impl Error {
    /// An error without a place.
    pub fn new(code: ErrorCode, detail: impl Into<String>) -> Error {
        let (op, detail) = (None, detail.into());
        match code {
            ErrorCode::BadHandle => Error::BadHandle { op, detail },
            ErrorCode::InvalidArgument => Error::InvalidArgument { op, detail },
            ErrorCode::ShapeMismatch => Error::ShapeMismatch { op, detail },
            ErrorCode::Alias => Error::Alias { op, detail },
            ErrorCode::OutOfMemory => Error::OutOfMemory { op, detail },
            ErrorCode::Quota => Error::Quota { op, detail },
            ErrorCode::IndexRange => Error::IndexRange { op, detail },
            ErrorCode::DeviceLost => Error::DeviceLost { op, detail },
        }
    }

    /// The same error, placed at operation `index`, named `name`.
    pub(crate) fn at(mut self, index: u32, name: &str) -> Error {
        let (op, detail) = self.parts_mut();
        *op = Some(index);
        *detail = format!("{name}: {detail}");
        self
    }

    fn parts_mut(&mut self) -> (&mut Option<u32>, &mut String) {
        match self {
            Error::BadHandle { op, detail }
            | Error::InvalidArgument { op, detail }
            | Error::ShapeMismatch { op, detail }
            | Error::Alias { op, detail }
            | Error::OutOfMemory { op, detail }
            | Error::Quota { op, detail }
            | Error::IndexRange { op, detail }
            | Error::DeviceLost { op, detail } => (op, detail),
        }
    }

    /// The stable class.
    pub const fn code(&self) -> ErrorCode {
        match self {
            Error::BadHandle { .. } => ErrorCode::BadHandle,
            Error::InvalidArgument { .. } => ErrorCode::InvalidArgument,
            Error::ShapeMismatch { .. } => ErrorCode::ShapeMismatch,
            Error::Alias { .. } => ErrorCode::Alias,
            Error::OutOfMemory { .. } => ErrorCode::OutOfMemory,
            Error::Quota { .. } => ErrorCode::Quota,
            Error::IndexRange { .. } => ErrorCode::IndexRange,
            Error::DeviceLost { .. } => ErrorCode::DeviceLost,
        }
    }

    /// Position of the offending operation in the submitted list, if any.
    pub const fn op(&self) -> Option<u32> {
        match self {
            Error::BadHandle { op, .. }
            | Error::InvalidArgument { op, .. }
            | Error::ShapeMismatch { op, .. }
            | Error::Alias { op, .. }
            | Error::OutOfMemory { op, .. }
            | Error::Quota { op, .. }
            | Error::IndexRange { op, .. }
            | Error::DeviceLost { op, .. } => *op,
        }
    }
}

/// `Err` with `code` and a formatted message.
macro_rules! fail {
    ($code:ident, $($arg:tt)*) => {
        Err($crate::Error::new($crate::ErrorCode::$code, format!($($arg)*)))
    };
}
pub(crate) use fail;
