//! The stable codes of problems. A code never changes its meaning; a gap is a check that needs
//! the file system, or a part of the format that this version does not have.

pub(super) const NOT_JSON: &str = "G001";
pub(super) const UNKNOWN_FIELD: &str = "G002";
pub(super) const VERSION: &str = "G003";
pub(super) const DUPLICATE: &str = "G004";
pub(super) const TASK_NAME: &str = "G005";
pub(super) const NOTHING_TO_DO: &str = "G006";
pub(super) const MISSING_TASK: &str = "G007";
pub(super) const SELF_DEPENDENCY: &str = "G008";
pub(super) const CYCLE: &str = "G009";
pub(super) const PATH: &str = "G010";
pub(super) const OVERLAP: &str = "G011";
pub(super) const RESERVED_OUTPUT: &str = "G012";
pub(super) const OWN_INPUT: &str = "G013";
pub(super) const MISSING_EDGE: &str = "G014";
pub(super) const GLOB: &str = "G015";
pub(super) const ENV_NAME: &str = "G016";
pub(super) const RANGE: &str = "G017";
pub(super) const POOL: &str = "G018";
pub(super) const SERVICE: &str = "G019";
pub(super) const PLATFORM: &str = "G020";
pub(super) const CASE: &str = "G021";
pub(super) const TEXT: &str = "G022";
pub(super) const LIMIT: &str = "G023";
pub(super) const COMMAND: &str = "G024";
pub(super) const TOO_LARGE: &str = "G025";
pub(super) const TASKS_AND_GRAPHS: &str = "G027";
pub(super) const RUNNER: &str = "G028";
/// A part of the format that this version does not have.
pub(super) const NOT_SUPPORTED: &str = "G031";
/// A value of the wrong type, or a word that the field does not know.
pub(super) const VALUE: &str = "G032";
/// An `@group` that is not in `groups`.
pub(super) const GROUP: &str = "G033";
/// `interactive` beside what excludes it.
pub(super) const INTERACTIVE: &str = "G034";
