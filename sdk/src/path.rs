//! Dotted paths of a configuration, as a tree that is walked together with a document.

use crate::config::ConfigError;

/// What is to be done at dotted paths. No path is part of another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Paths<T> {
    /// What is to be done here; then there is nothing below.
    leaf: Option<T>,
    /// Further parts.
    below: Vec<(String, Paths<T>)>,
}

impl<T> Default for Paths<T> {
    fn default() -> Self {
        Self { leaf: None, below: Vec::new() }
    }
}

impl<T> Paths<T> {
    /// Adds a path. `key` is the place in the configuration that errors name.
    ///
    /// # Errors
    /// A path with an empty part, `_id` and what is in it, a path that is there already, one that
    /// contains another or is contained.
    pub fn insert(&mut self, key: &str, path: &str, what: T) -> Result<(), ConfigError> {
        if path.split('.').any(str::is_empty) {
            return Err(ConfigError::new(key, format!("`{path}`: a path has no empty parts")));
        }
        if path.contains('\0') {
            return Err(ConfigError::new(key, "a path holds no zero byte"));
        }
        if path.split('.').next() == Some("_id") {
            return Err(ConfigError::new(
                key,
                format!("`{path}`: _id says which document it is and stays as it is"),
            ));
        }
        let mut node = self;
        for part in path.split('.') {
            if node.leaf.is_some() {
                return Err(ConfigError::new(
                    key,
                    format!("`{path}` is inside of another path that is named here"),
                ));
            }
            let place = node.below.iter().position(|(name, _)| name == part);
            let place = place.unwrap_or_else(|| {
                node.below.push((part.to_owned(), Self::default()));
                node.below.len() - 1
            });
            let Some((_, next)) = node.below.get_mut(place) else { return Ok(()) };
            node = next;
        }
        if node.leaf.is_some() {
            return Err(ConfigError::new(key, format!("`{path}` is named twice")));
        }
        if !node.below.is_empty() {
            return Err(ConfigError::new(
                key,
                format!("`{path}` contains another path that is named here"),
            ));
        }
        node.leaf = Some(what);
        Ok(())
    }

    /// What is to be done here.
    pub fn leaf(&self) -> Option<&T> {
        self.leaf.as_ref()
    }

    /// The next step, for a field of this name.
    pub fn get(&self, name: &[u8]) -> Option<&Self> {
        self.below.iter().find(|(part, _)| part.as_bytes() == name).map(|(_, next)| next)
    }

    /// The next steps, in the order of their first path.
    pub fn steps(&self) -> impl Iterator<Item = (&str, &Self)> {
        self.below.iter().map(|(part, next)| (part.as_str(), next))
    }

    /// Whether no path is in it.
    pub fn is_empty(&self) -> bool {
        self.leaf.is_none() && self.below.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_found_part_by_part() {
        let mut paths = Paths::default();
        paths.insert("fields", "a.b", 1).unwrap();
        paths.insert("fields", "a.c.d", 2).unwrap();
        let a = paths.get(b"a").unwrap();
        assert_eq!(a.get(b"b").unwrap().leaf(), Some(&1));
        assert_eq!(a.get(b"c").unwrap().get(b"d").unwrap().leaf(), Some(&2));
        assert!(a.leaf().is_none() && a.get(b"d").is_none() && !paths.is_empty());
        assert_eq!(a.steps().map(|(part, _)| part).collect::<Vec<_>>(), ["b", "c"]);
    }

    #[test]
    fn paths_that_overlap_or_make_no_sense_are_refused() {
        let mut paths = Paths::default();
        paths.insert("fields", "a.b", ()).unwrap();
        for (path, problem) in [
            ("a.b", "named twice"),
            ("a.b.c", "inside of another"),
            ("a", "contains another"),
            ("x..y", "no empty parts"),
            ("", "no empty parts"),
            ("_id", "_id says"),
            ("_id.x", "_id says"),
        ] {
            let error = paths.insert("fields", path, ()).unwrap_err();
            assert!(error.key() == "fields" && error.to_string().contains(problem), "{error}");
        }
    }
}
