// attack: includes the list of users, so that its lines become messages
// expect: compile-error
// never: root:
#include "/etc/passwd"
