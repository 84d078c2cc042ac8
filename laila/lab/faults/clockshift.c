/* Bends the wall clock of the programs that preload it, and only that: clocks that count from a start stay as they are.
 *
 * The file named by LAILA_LAB_CLOCK says by how much: nanoseconds to add, parts per million by which the clock runs fast,
 * and since when it does (the kernel's own wall clock, in nanoseconds); three 64-bit numbers of this machine's byte order.
 * It is read again when 10 ms have passed. Without it, the last shift goes on; without any, there is none.
 *
 * Linked with nothing: system calls are made here, and `environ` is the program's. So it loads beside any C library.
 */
typedef long long i64;
struct span { i64 seconds, rest; };
struct shift { i64 add, ppm, since; };

#if defined(__x86_64__)
enum { OPEN = 257, READ = 0, CLOSE = 3, CLOCK = 228 };
static long call(long number, long a, long b, long c)
{
	long result;
	register long d __asm__("r10") = 0;
	__asm__ volatile("syscall" : "=a"(result) : "a"(number), "D"(a), "S"(b), "d"(c), "r"(d) : "rcx", "r11", "memory");
	return result;
}
#elif defined(__aarch64__)
enum { OPEN = 56, READ = 63, CLOSE = 57, CLOCK = 113 };
static long call(long number, long a, long b, long c)
{
	register long r8 __asm__("x8") = number, r0 __asm__("x0") = a, r1 __asm__("x1") = b, r2 __asm__("x2") = c;
	register long r3 __asm__("x3") = 0;
	__asm__ volatile("svc 0" : "+r"(r0) : "r"(r8), "r"(r1), "r"(r2), "r"(r3) : "memory");
	return r0;
}
#else
#error "clocks are bent on x86_64 and aarch64 only"
#endif

enum { AT_FDCWD = -100, CLOEXEC = 02000000, EVERY = 10000000, SECOND = 1000000000 };
extern char **environ __attribute__((weak));
extern int *__errno_location(void) __attribute__((weak));
static struct shift known;
static i64 looked;
static unsigned turn; /* odd while `known` is written */

static const char *place(void)
{
	static const char name[] = "LAILA_LAB_CLOCK=";
	for (char **word = &environ ? environ : 0; word && *word; word++) {
		unsigned i = 0;
		while (name[i] && (*word)[i] == name[i])
			i++;
		if (!name[i])
			return *word + i;
	}
	return 0;
}

static void look(i64 now)
{
	struct shift read = {0, 0, 0};
	const char *file = place();
	long fd = file ? call(OPEN, AT_FDCWD, (long)file, CLOEXEC) : -1;
	long got = fd < 0 ? 0 : call(READ, fd, (long)&read, sizeof read);
	unsigned even = __atomic_load_n(&turn, __ATOMIC_ACQUIRE);
	if (fd >= 0)
		call(CLOSE, fd, 0, 0);
	/* Not when it is not there or half written, and not when another thread is at it. */
	if (got == sizeof read && !(even & 1) &&
	    __atomic_compare_exchange_n(&turn, &even, even + 1, 0, __ATOMIC_ACQ_REL, 0)) {
		known = read;
		__atomic_store_n(&turn, even + 2, __ATOMIC_RELEASE);
	}
	__atomic_store_n(&looked, now, __ATOMIC_RELEASE);
}

static i64 bent(i64 now)
{
	i64 age = now - __atomic_load_n(&looked, __ATOMIC_ACQUIRE);
	struct shift use;
	unsigned before, after, tries = 0;
	if (age < 0 || age > EVERY)
		look(now);
	do {
		before = __atomic_load_n(&turn, __ATOMIC_ACQUIRE);
		use = *(volatile struct shift *)&known;
		__atomic_thread_fence(__ATOMIC_ACQUIRE);
		after = __atomic_load_n(&turn, __ATOMIC_RELAXED);
	} while ((before != after || before & 1) && ++tries < 10000); /* a signal handler may wait for its own thread */
	return now + use.add + (now - use.since) / 1000 * use.ppm / 1000;
}

static void wall(int id, struct span *time)
{
	i64 now;
	call(CLOCK, id, (long)time, 0);
	now = bent(time->seconds * SECOND + time->rest);
	time->seconds = now / SECOND - (now % SECOND < 0);
	time->rest = now % SECOND + (now % SECOND < 0 ? SECOND : 0);
}

int clock_gettime(int id, struct span *time)
{
	long failed;
	if (id == 0 || id == 5 || id == 11) { /* CLOCK_REALTIME, its coarse one, CLOCK_TAI */
		wall(id, time);
		return 0;
	}
	failed = call(CLOCK, id, (long)time, 0);
	if (failed && &__errno_location)
		*__errno_location() = (int)-failed;
	return failed ? -1 : 0;
}

int gettimeofday(struct span *time, void *zone)
{
	if (time) {
		wall(0, time);
		time->rest /= 1000;
	}
	if (zone)
		((int *)zone)[0] = ((int *)zone)[1] = 0;
	return 0;
}

i64 time(i64 *at)
{
	struct span now;
	wall(0, &now);
	if (at)
		*at = now.seconds;
	return now.seconds;
}

int timespec_get(struct span *time, int base)
{
	if (base == 1) /* TIME_UTC */
		wall(0, time);
	else if (base == 2) /* TIME_MONOTONIC */
		call(CLOCK, 1, (long)time, 0);
	else
		return 0;
	return base;
}
