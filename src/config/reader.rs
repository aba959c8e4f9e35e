//! serde's way through a [`Node`]: like toml's own, and each fault knows its
//! key and what would be right.

use std::fmt;

use serde::de::value::StrDeserializer;
use serde::de::{
    self, DeserializeSeed, Deserializer, EnumAccess, Expected, IntoDeserializer as _, MapAccess,
    SeqAccess, Unexpected, VariantAccess, Visitor,
};
use serde::forward_to_deserialize_any;

use super::document::{Node, Value, joined};

/// What does not fit, and where: the key of the value, of the table that lacks
/// something, or of what is not known.
#[derive(Debug)]
pub(super) struct Fault {
    pub key: String,
    pub kind: FaultKind,
}

#[derive(Debug)]
pub(super) enum FaultKind {
    Missing(&'static str),
    Unknown { known: &'static [&'static str] },
    Variant { text: String, known: &'static [&'static str] },
    Value { problem: String, remedy: String },
}

impl Fault {
    fn new(kind: FaultKind) -> Self {
        Self { key: String::new(), kind }
    }

    /// The innermost place is the right one.
    fn at(mut self, key: impl FnOnce() -> String) -> Self {
        if self.key.is_empty() {
            self.key = key();
        }
        self
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {:?}", self.key, self.kind)
    }
}

impl std::error::Error for Fault {}

impl de::Error for Fault {
    fn custom<T: fmt::Display>(message: T) -> Self {
        let problem = message.to_string();
        let remedy = if problem.contains("socket address") {
            "write address:port, such as [::]:443"
        } else {
            "write another one"
        };
        Self::new(FaultKind::Value { problem, remedy: remedy.into() })
    }

    fn invalid_type(unexpected: Unexpected<'_>, expected: &dyn Expected) -> Self {
        let problem = format!("is {}", words_for(&unexpected));
        Self::new(FaultKind::Value { problem, remedy: remedy_for(&expected.to_string()) })
    }

    fn invalid_value(unexpected: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::invalid_type(unexpected, expected)
    }

    fn unknown_variant(text: &str, known: &'static [&'static str]) -> Self {
        Self::new(FaultKind::Variant { text: text.to_owned(), known })
    }

    fn unknown_field(_field: &str, known: &'static [&'static str]) -> Self {
        Self::new(FaultKind::Unknown { known })
    }

    fn missing_field(field: &'static str) -> Self {
        Self::new(FaultKind::Missing(field))
    }
}

/// Texts are not repeated: one may be a secret in the wrong place.
fn words_for(unexpected: &Unexpected<'_>) -> String {
    match unexpected {
        Unexpected::Bool(value) => value.to_string(),
        Unexpected::Unsigned(number) => format!("the number {number}"),
        Unexpected::Signed(number) => format!("the number {number}"),
        Unexpected::Float(number) => format!("the number {number}"),
        Unexpected::Str(_) => "a text".into(),
        Unexpected::Seq => "a list".into(),
        Unexpected::Map => "a table".into(),
        Unexpected::Other(other) => (*other).to_owned(),
        other => other.to_string(),
    }
}

fn remedy_for(expected: &str) -> String {
    let range = |max: u64| format!("write a whole number from 0 to {max}");
    match expected {
        "u8" => range(u8::MAX.into()),
        "u16" => range(u16::MAX.into()),
        "u32" => range(u32::MAX.into()),
        "u64" | "usize" => "write a whole number, 0 or more".into(),
        "a boolean" => "write true or false".into(),
        "a string" | "path string" | "socket address" => "write a text in quotes".into(),
        "a sequence" => "write a list".into(),
        other if other.starts_with("struct ") => "write a table".into(),
        other if other.contains("enum ") || other == "variant identifier" => {
            "write a text in quotes".into()
        }
        other => format!("write {other}"),
    }
}

/// A value and its key.
#[derive(Debug)]
pub(super) struct Reader<'n> {
    node: &'n Node,
    key: String,
}

impl<'n> Reader<'n> {
    pub(super) fn of(node: &'n Node) -> Self {
        Self { node, key: String::new() }
    }
}

impl<'de> Deserializer<'de> for Reader<'de> {
    type Error = Fault;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        let key = self.key;
        let read = match &self.node.value {
            Value::Text(text) => visitor.visit_borrowed_str(text),
            Value::Integer(number) => match (u64::try_from(*number), i64::try_from(*number)) {
                (Ok(number), _) => visitor.visit_u64(number),
                (_, Ok(number)) => visitor.visit_i64(number),
                _ => Err(de::Error::invalid_value(
                    Unexpected::Other("a number beyond all limits"),
                    &visitor,
                )),
            },
            Value::Float(number) => visitor.visit_f64(*number),
            Value::Boolean(value) => visitor.visit_bool(*value),
            Value::Moment => {
                Err(de::Error::invalid_type(Unexpected::Other("a date or time"), &visitor))
            }
            Value::List(values) => visitor.visit_seq(Elements { values: values.iter(), key: &key }),
            Value::Table(table) => {
                visitor.visit_map(Entries { entries: table.iter(), value: None, table: &key })
            }
        };
        read.map_err(|fault| fault.at(|| key))
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Fault> {
        let key = self.key.clone();
        visitor.visit_newtype_struct(self).map_err(|fault: Fault| fault.at(|| key))
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        let key = self.key.clone();
        let read = match &self.node.value {
            Value::Text(text) => visitor.visit_enum(text.as_str().into_deserializer()),
            Value::Table(table) if table.len() == 1 => match table.iter().next() {
                Some(entry) => visitor.visit_enum(Choice { entry, key: &key }),
                None => self.deserialize_any(visitor),
            },
            _ => self.deserialize_any(visitor),
        };
        read.map_err(|fault| fault.at(|| key))
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit
        unit_struct seq tuple tuple_struct map struct identifier ignored_any
    }
}

struct Elements<'n, 'k> {
    values: std::slice::Iter<'n, (usize, Node)>,
    key: &'k str,
}

impl<'de> SeqAccess<'de> for Elements<'de, '_> {
    type Error = Fault;

    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, Fault> {
        let Some((place, node)) = self.values.next() else { return Ok(None) };
        let key = format!("{}[{place}]", self.key);
        let reader = Reader { node, key: key.clone() };
        seed.deserialize(reader).map(Some).map_err(|fault| fault.at(|| key))
    }
}

struct Entries<'n, 'k> {
    entries: std::collections::btree_map::Iter<'n, String, Node>,
    value: Option<(&'n String, &'n Node)>,
    table: &'k str,
}

impl<'de> MapAccess<'de> for Entries<'de, '_> {
    type Error = Fault;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, Fault> {
        self.value = self.entries.next();
        let Some((name, _)) = self.value else { return Ok(None) };
        let name: StrDeserializer<'_, Fault> = name.as_str().into_deserializer();
        let at = |fault: Fault| fault.at(|| joined(self.table, self.value.map_or("", |(n, _)| n)));
        seed.deserialize(name).map(Some).map_err(at)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Fault> {
        let (name, node) = self.value.ok_or_else(|| de::Error::custom("a key has no value"))?;
        let key = joined(self.table, name);
        let reader = Reader { node, key: key.clone() };
        seed.deserialize(reader).map_err(|fault| fault.at(|| key))
    }
}

/// An enum's variant that has a value: `{ variant = value }`.
struct Choice<'n, 'k> {
    entry: (&'n String, &'n Node),
    key: &'k str,
}

impl<'de> EnumAccess<'de> for Choice<'de, '_> {
    type Error = Fault;
    type Variant = Reader<'de>;

    fn variant_seed<V: DeserializeSeed<'de>>(
        self,
        seed: V,
    ) -> Result<(V::Value, Reader<'de>), Fault> {
        let (name, node) = self.entry;
        let text: StrDeserializer<'_, Fault> = name.as_str().into_deserializer();
        let variant = seed.deserialize(text)?;
        Ok((variant, Reader { node, key: joined(self.key, name) }))
    }
}

impl<'de> VariantAccess<'de> for Reader<'de> {
    type Error = Fault;

    fn unit_variant(self) -> Result<(), Fault> {
        Err(de::Error::invalid_type(Unexpected::Map, &"a string"))
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value, Fault> {
        let key = self.key.clone();
        seed.deserialize(self).map_err(|fault| fault.at(|| key))
    }

    fn tuple_variant<V: Visitor<'de>>(self, _len: usize, visitor: V) -> Result<V::Value, Fault> {
        self.deserialize_any(visitor)
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        _fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        self.deserialize_any(visitor)
    }
}
