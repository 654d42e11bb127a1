//! AMX.
/// stub
pub fn is_available() -> bool {
    false
}
