// attack: embeds a host file as numbers
// expect: compile-error
// never: root:
static const unsigned char stolen[] = {
#embed "/etc/passwd"
};
