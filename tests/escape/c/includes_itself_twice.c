// attack: includes itself twice in each of its copies
// expect: compile-error | deadline
#if __INCLUDE_LEVEL__ < 190
#include __FILE__
#include __FILE__
#endif
