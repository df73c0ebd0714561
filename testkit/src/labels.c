/*
 * A provider of security labels that takes every label, for PostgreSQL 13 to 18: no build that tests run on has one.
 *
 * Written without PostgreSQL's headers, which those builds do not have either. What it declares is the ABI of
 * src/include/fmgr.h (Pg_magic_struct, of 13, 15 and 18) and src/include/commands/seclabel.h.
 */
#define FIELDS MAJOR * 100, 100, 32, 64, 1

struct magic
{
	int len;
	int version, max_arguments, max_keys, name_len, float8_by_value;
#if MAJOR >= 15
	char abi[32];
#endif
#if MAJOR >= 18
	const char *name, *library_version;
#endif
};

const struct magic *Pg_magic_func(void)
{
	static const struct magic magic = {
		sizeof(struct magic), FIELDS,
#if MAJOR >= 15
		"PostgreSQL",
#endif
	};

	return &magic;
}

struct object_address;
extern void register_label_provider(const char *name, void (*check) (const struct object_address *, const char *));

static void accept(const struct object_address *object, const char *label)
{
}

void _PG_init(void)
{
	register_label_provider("test", accept);
}
