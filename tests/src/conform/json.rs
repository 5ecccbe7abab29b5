//! Strict JSON: every object key once, and an error that says which file, case and field is wrong.

use std::fmt;

use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};

/// A JSON value that keeps the order of its keys and refuses a key written twice.
#[derive(Clone, Debug, PartialEq)]
pub enum Json {
    /// `null`
    Null,
    /// `true` or `false`
    Bool(bool),
    /// Any number, as the nearest double.
    Number(f64),
    /// A string.
    String(String),
    /// An array.
    Array(Vec<Json>),
    /// An object, in the order written.
    Object(Vec<(String, Json)>),
}

/// What is wrong with a vector file, and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{file}: {}field `{field}`: {problem}", .case.as_ref().map(|c| format!("case `{c}`: ")).unwrap_or_default())]
pub struct Malformed {
    /// The file as it was named.
    pub file: String,
    /// The case's name, or `#n` (counted from 0) where the name itself is what is wrong.
    pub case: Option<String>,
    /// Path of the field inside the case (or file), `.` where the whole of it is meant.
    pub field: String,
    /// What was found and what was expected.
    pub problem: String,
}

/// A value together with where it stands, so that every access can name its place.
#[derive(Clone, Debug)]
pub struct Field<'a> {
    file: &'a str,
    case: Option<String>,
    path: String,
    value: &'a Json,
}

/// A tensor of the format: row-major numbers and a shape whose product is their number.
#[derive(Clone, Debug, PartialEq)]
pub struct Numbers {
    /// Dimensions; empty for a scalar of one number.
    pub shape: Vec<usize>,
    /// Values, row by row.
    pub data: Vec<f64>,
}

impl<'a> Field<'a> {
    /// The root of `file`'s document.
    pub fn root(file: &'a str, value: &'a Json) -> Self {
        Self { file, case: None, path: String::new(), value }
    }

    /// The same value as the root of the case called `case`.
    pub fn as_case(&self, case: &str) -> Self {
        Self { case: Some(case.to_string()), path: String::new(), ..self.clone() }
    }

    /// The error that this field has `problem`.
    pub fn malformed(&self, problem: impl Into<String>) -> Malformed {
        Malformed {
            file: self.file.to_string(),
            case: self.case.clone(),
            field: if self.path.is_empty() { ".".to_string() } else { self.path.clone() },
            problem: problem.into(),
        }
    }

    /// Refuses a key that is not in `allowed`.
    pub fn only(&self, allowed: &[&str]) -> Result<(), Malformed> {
        for (key, _) in self.object()? {
            if !allowed.contains(&key.as_str()) {
                return Err(self.at(key, &Json::Null).malformed(format!("unknown; known are {}", allowed.join(", "))));
            }
        }
        Ok(())
    }

    /// The member `key`, which has to be there.
    pub fn get(&self, key: &str) -> Result<Field<'a>, Malformed> {
        match self.find(key)? {
            Some(field) => Ok(field),
            None => Err(self.at(key, &Json::Null).malformed("missing")),
        }
    }

    /// The member `key`, if it is there.
    pub fn find(&self, key: &str) -> Result<Option<Field<'a>>, Malformed> {
        let members = self.object()?;
        Ok(members.iter().find(|(name, _)| name == key).map(|(name, value)| self.at(name, value)))
    }

    /// The elements of an array.
    pub fn items(&self) -> Result<Vec<Field<'a>>, Malformed> {
        match self.value {
            Json::Array(items) => Ok(items
                .iter()
                .enumerate()
                .map(|(i, value)| Field { path: format!("{}[{i}]", self.path), value, ..self.clone() })
                .collect()),
            _ => Err(self.wanted("an array")),
        }
    }

    /// A string.
    pub fn text(&self) -> Result<&'a str, Malformed> {
        match self.value {
            Json::String(text) => Ok(text),
            _ => Err(self.wanted("a string")),
        }
    }

    /// A number, or one of the strings `"nan"`, `"inf"` and `"-inf"`.
    pub fn number(&self) -> Result<f64, Malformed> {
        match self.value {
            Json::Number(number) => Ok(*number),
            Json::String(text) => match text.as_str() {
                "nan" => Ok(f64::NAN),
                "inf" => Ok(f64::INFINITY),
                "-inf" => Ok(f64::NEG_INFINITY),
                _ => Err(self.wanted("a number, \"nan\", \"inf\" or \"-inf\"")),
            },
            _ => Err(self.wanted("a number")),
        }
    }

    /// `true` or `false`.
    pub fn truth(&self) -> Result<bool, Malformed> {
        match self.value {
            Json::Bool(truth) => Ok(*truth),
            _ => Err(self.wanted("true or false")),
        }
    }

    /// A whole number from 0 to 2⁵³.
    pub fn count(&self) -> Result<usize, Malformed> {
        match self.value {
            Json::Number(n) if *n >= 0.0 && n.fract() == 0.0 && *n <= 9_007_199_254_740_992.0 => Ok(*n as usize),
            _ => Err(self.wanted("a whole number, 0 or more")),
        }
    }

    /// Whole numbers, as an array or as a tensor of rank 1.
    pub fn counts(&self) -> Result<Vec<usize>, Malformed> {
        let list = match self.value {
            Json::Object(_) => {
                let numbers = self.numbers()?;
                if numbers.shape.len() != 1 {
                    return Err(self.malformed(format!("rank {}, expected 1", numbers.shape.len())));
                }
                self.get("data")?
            }
            _ => self.clone(),
        };
        list.items()?.iter().map(Field::count).collect()
    }

    /// A tensor `{"shape", "data"}`.
    pub fn numbers(&self) -> Result<Numbers, Malformed> {
        self.only(&["shape", "data"])?;
        let shape = self.get("shape")?.items()?.iter().map(Field::count).collect::<Result<Vec<_>, _>>()?;
        let field = self.get("data")?;
        let data = field.items()?.iter().map(Field::number).collect::<Result<Vec<_>, _>>()?;
        let elements = shape.iter().try_fold(1usize, |n, d| n.checked_mul(*d));
        if elements != Some(data.len()) {
            return Err(field.malformed(format!("{} numbers for shape {shape:?}", data.len())));
        }
        Ok(Numbers { shape, data })
    }

    /// A tensor of exactly `D` dimensions, and those dimensions.
    pub fn ranked<const D: usize>(&self) -> Result<([usize; D], Vec<f64>), Malformed> {
        let numbers = self.numbers()?;
        match <[usize; D]>::try_from(numbers.shape.as_slice()) {
            Ok(shape) => Ok((shape, numbers.data)),
            Err(_) => Err(self.get("shape")?.malformed(format!("rank {}, expected {D}", numbers.shape.len()))),
        }
    }

    fn object(&self) -> Result<&'a [(String, Json)], Malformed> {
        match self.value {
            Json::Object(members) => Ok(members),
            _ => Err(self.wanted("an object")),
        }
    }

    fn at(&self, key: &str, value: &'a Json) -> Field<'a> {
        let path = if self.path.is_empty() { key.to_string() } else { format!("{}.{key}", self.path) };
        Field { path, value, ..self.clone() }
    }

    fn wanted(&self, what: &str) -> Malformed {
        let found = match self.value {
            Json::Null => "null".to_string(),
            Json::Bool(b) => b.to_string(),
            Json::Number(n) => n.to_string(),
            Json::String(s) => format!("{s:?}"),
            Json::Array(items) => format!("an array of {}", items.len()),
            Json::Object(_) => "an object".to_string(),
        };
        self.malformed(format!("{found}, expected {what}"))
    }
}

impl<'de> Deserialize<'de> for Json {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(JsonVisitor)
    }
}

struct JsonVisitor;

impl<'de> Visitor<'de> for JsonVisitor {
    type Value = Json;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Json, E> {
        Ok(Json::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Json, E> {
        Ok(Json::Bool(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Json, E> {
        Ok(Json::Number(value as f64))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Json, E> {
        Ok(Json::Number(value as f64))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Json, E> {
        Ok(Json::Number(value))
    }

    fn visit_str<E>(self, value: &str) -> Result<Json, E> {
        Ok(Json::String(value.to_string()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Json, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(Json::Array(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Json, A::Error> {
        let mut members: Vec<(String, Json)> = Vec::new();
        while let Some((key, value)) = entries.next_entry::<String, Json>()? {
            if members.iter().any(|(name, _)| *name == key) {
                return Err(A::Error::custom(format!("key `{key}` twice in one object")));
            }
            members.push((key, value));
        }
        Ok(Json::Object(members))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Json {
        serde_json::from_str(text).unwrap()
    }

    fn complaint<T: fmt::Debug>(result: Result<T, Malformed>) -> String {
        result.unwrap_err().to_string()
    }

    #[test]
    fn numbers_know_the_three_that_json_lacks() {
        let json = parse(r#"{"shape": [2, 2], "data": [1.5, "nan", "inf", "-inf"]}"#);
        let (shape, data) = Field::root("f", &json).ranked::<2>().unwrap();
        assert_eq!(shape, [2, 2]);
        assert_eq!(data[0], 1.5);
        assert!(data[1].is_nan());
        assert_eq!(data[2..], [f64::INFINITY, f64::NEG_INFINITY]);
    }

    #[test]
    fn complaints_name_the_place() {
        let json = parse(r#"{"params": {"model": {"layers": [{"weight": {"shape": [2], "data": [1]}}]}}}"#);
        let root = Field::root("hvp.json", &json);
        let case = root.as_case("first");
        let weight = || case.get("params")?.get("model")?.get("layers")?.items()?[0].get("weight")?.numbers();
        assert_eq!(
            complaint(weight()),
            "hvp.json: case `first`: field `params.model.layers[0].weight.data`: 1 numbers for shape [2]"
        );
        assert_eq!(complaint(case.get("tol")), "hvp.json: case `first`: field `tol`: missing");
        assert_eq!(complaint(root.text()), "hvp.json: field `.`: an object, expected a string");
    }

    #[test]
    fn wrong_kinds_are_refused() {
        for (text, problem) in [
            (r#""infinity""#, "\"infinity\", expected a number, \"nan\", \"inf\" or \"-inf\""),
            ("true", "true, expected a number"),
            ("[1]", "an array of 1, expected a number"),
        ] {
            let json = parse(text);
            assert!(complaint(Field::root("f", &json).number()).ends_with(problem));
        }
        for text in ["-1", "1.5", "1e300", "\"1\""] {
            let json = parse(text);
            assert!(Field::root("f", &json).count().is_err(), "{text}");
        }
        let json = parse(r#"{"shape": [1, 1], "data": [1]}"#);
        assert!(complaint(Field::root("f", &json).ranked::<1>()).ends_with("rank 2, expected 1"));
        assert!(complaint(Field::root("f", &json).counts()).ends_with("rank 2, expected 1"));
        assert!(complaint(Field::root("f", &json).only(&["data"])).contains("field `shape`: unknown"));
    }

    #[test]
    fn shape_products_do_not_wrap() {
        let json = parse(r#"{"shape": [4294967296, 4294967296], "data": []}"#);
        assert!(Field::root("f", &json).numbers().is_err());
    }

    #[test]
    fn a_key_twice_is_an_error() {
        let error = serde_json::from_str::<Json>(r#"{"a": 1, "a": 2}"#).unwrap_err();
        assert!(error.to_string().contains("key `a` twice"), "{error}");
    }

    #[test]
    fn labels_come_as_array_or_tensor() {
        for text in ["[2, 0, 1]", r#"{"shape": [3], "data": [2, 0, 1]}"#] {
            let json = parse(text);
            assert_eq!(Field::root("f", &json).counts().unwrap(), [2, 0, 1]);
        }
    }
}
