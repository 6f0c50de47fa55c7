// attack: includes the environment of the compiler's process
// expect: compile-error
// never: TMPDIR
#include </proc/self/environ>
