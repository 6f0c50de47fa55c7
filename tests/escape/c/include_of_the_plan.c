// attack: includes the launcher's orders, which lie beside the job
// expect: compile-error
// never: address_space
#include "../../plan.json"
