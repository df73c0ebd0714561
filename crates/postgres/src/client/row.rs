//! Rows of a result: text values by position.

use std::ops::Range;
use std::str::FromStr;
use std::sync::Arc;

use bytes::Bytes;
use fallible_iterator::FallibleIterator;
use postgres_protocol::message::backend::{DataRowBody, RowDescriptionBody};

use super::error::{ClientError, Fault};
use super::wire::malformed;

/// A column of a result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    /// As the query named it.
    pub name: String,
    /// `pg_type.oid`.
    pub type_oid: u32,
}

/// What all rows of a result share.
#[derive(Debug)]
pub(crate) struct Shape {
    pub(crate) server: Arc<str>,
    pub(crate) columns: Vec<Column>,
}

impl Shape {
    pub(crate) fn new(server: Arc<str>, body: &RowDescriptionBody) -> Result<Arc<Self>, Fault> {
        let fields =
            body.fields().map(|field| Ok(Column { name: field.name().to_owned(), type_oid: field.type_oid() }));
        Ok(Arc::new(Self { server, columns: fields.collect().map_err(malformed)? }))
    }
}

/// One row; values in the text format of their types.
#[derive(Clone, Debug)]
pub struct Row {
    shape: Arc<Shape>,
    buffer: Bytes,
    values: Vec<Option<Range<usize>>>,
}

impl Row {
    pub(crate) fn new(shape: &Arc<Shape>, body: &DataRowBody) -> Result<Self, Fault> {
        let values = body.ranges().collect::<Vec<_>>().map_err(malformed)?;
        if values.len() != shape.columns.len() {
            let (got, described) = (values.len(), shape.columns.len());
            return Err(Fault::protocol(format!("a row of {got} values under {described} columns")));
        }
        Ok(Self { shape: Arc::clone(shape), buffer: body.buffer_bytes().clone(), values })
    }

    /// The columns, in order.
    #[must_use]
    pub fn columns(&self) -> &[Column] {
        &self.shape.columns
    }

    /// The value as it was sent, `None` if it is NULL or there is no such column.
    #[must_use]
    pub fn bytes(&self, index: usize) -> Option<&[u8]> {
        let range = self.values.get(index)?.clone()?;
        self.buffer.get(range)
    }

    /// The value as a shared piece of the message it came in.
    #[must_use]
    pub fn shared_bytes(&self, index: usize) -> Option<Bytes> {
        let range = self.values.get(index)?.clone()?;
        Some(self.buffer.slice(range))
    }

    /// The value as text, `None` if it is NULL.
    ///
    /// # Errors
    /// `Protocol` if there is no such column or the value is not UTF-8 (databases in encoding `SQL_ASCII` hold such).
    pub fn text(&self, index: usize) -> Result<Option<&str>, ClientError> {
        if index >= self.values.len() {
            return Err(self.error(index, "the result has no such column"));
        }
        let text = self.bytes(index).map(std::str::from_utf8).transpose();
        text.map_err(|_| self.error(index, "the value is not UTF-8"))
    }

    /// The value as text; NULL is an error.
    ///
    /// # Errors
    /// As [`Self::text`], and `Protocol` for NULL.
    pub fn required(&self, index: usize) -> Result<&str, ClientError> {
        self.text(index)?.ok_or_else(|| self.error(index, "the value is NULL"))
    }

    /// The value read by `T`'s `FromStr`, `None` if it is NULL. Booleans arrive as `t` and `f`.
    ///
    /// # Errors
    /// As [`Self::text`], and `Protocol` if the text is not a `T`.
    pub fn parse<T: FromStr>(&self, index: usize) -> Result<Option<T>, ClientError> {
        let parsed = self.text(index)?.map(str::parse).transpose();
        parsed.map_err(|_| self.error(index, &format!("the value is not a {}", std::any::type_name::<T>())))
    }

    /// As [`Self::parse`]; NULL is an error.
    ///
    /// # Errors
    /// As [`Self::parse`], and `Protocol` for NULL.
    pub fn parse_required<T: FromStr>(&self, index: usize) -> Result<T, ClientError> {
        self.parse(index)?.ok_or_else(|| self.error(index, "the value is NULL"))
    }

    fn error(&self, index: usize, reason: &str) -> ClientError {
        let column = self.columns().get(index).map_or("?", |column| column.name.as_str());
        let reason = format!("column {} ({column}): {reason}", index + 1);
        ClientError::new(&*self.shape.server, "reading a result", Fault::protocol(reason))
    }
}
