/*
 * A directory that goes away, hangs, crashes and comes back, as a module of NSS: what libnss_sss is to SSSD.
 * SERVICE is the name of the service. It reads DIRECTORY/mode at each call: up, away, hang, crash, again or groups-away;
 * its accounts and groups are DIRECTORY/passwd and DIRECTORY/group, in the form of passwd(5) and group(5).
 */
#include <errno.h>
#include <grp.h>
#include <nss.h>
#include <pwd.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define JOIN2(a, b, c) a##b##c
#define JOIN(a, b, c) JOIN2(a, b, c)
#define FUNCTION(name) JOIN(_nss_, SERVICE, _##name)

static int is(const char *wanted)
{
    char mode[32] = "";
    FILE *file = fopen(DIRECTORY "/mode", "re");
    if (file != NULL) {
        if (fscanf(file, "%31s", mode) != 1) mode[0] = 0;
        fclose(file);
    }
    return strcmp(mode, wanted) == 0;
}

static enum nss_status state(int *errnop, int groups)
{
    while (is("hang")) usleep(20000);
    if (is("crash")) raise(SIGSEGV);
    if (is("away") || (groups && is("groups-away"))) {
        *errnop = ECONNREFUSED;
        return NSS_STATUS_UNAVAIL;
    }
    if (is("again")) {
        *errnop = EAGAIN;
        return NSS_STATUS_TRYAGAIN;
    }
    return NSS_STATUS_SUCCESS;
}

static enum nss_status account(const char *name, uid_t uid, struct passwd *result, char *buffer, size_t length, int *errnop)
{
    enum nss_status status = state(errnop, 0);
    if (status != NSS_STATUS_SUCCESS) return status;
    FILE *file = fopen(DIRECTORY "/passwd", "re");
    if (file == NULL) return NSS_STATUS_NOTFOUND;
    struct passwd *found;
    int error;
    while ((error = fgetpwent_r(file, result, buffer, length, &found)) == 0)
        if (name != NULL ? strcmp(result->pw_name, name) == 0 : result->pw_uid == uid) break;
    fclose(file);
    if (error == 0) return NSS_STATUS_SUCCESS;
    if (error != ERANGE) return NSS_STATUS_NOTFOUND;
    *errnop = ERANGE;
    return NSS_STATUS_TRYAGAIN;
}

enum nss_status FUNCTION(getpwuid_r)(uid_t uid, struct passwd *result, char *buffer, size_t length, int *errnop)
{
    return account(NULL, uid, result, buffer, length, errnop);
}

enum nss_status FUNCTION(getpwnam_r)(const char *name, struct passwd *result, char *buffer, size_t length, int *errnop)
{
    return account(name, 0, result, buffer, length, errnop);
}

static enum nss_status group_entry(const char *name, gid_t gid, struct group *result, char *buffer, size_t length, int *errnop)
{
    enum nss_status status = state(errnop, 0);
    if (status != NSS_STATUS_SUCCESS) return status;
    FILE *file = fopen(DIRECTORY "/group", "re");
    if (file == NULL) return NSS_STATUS_NOTFOUND;
    struct group *found;
    int error;
    while ((error = fgetgrent_r(file, result, buffer, length, &found)) == 0)
        if (name != NULL ? strcmp(result->gr_name, name) == 0 : result->gr_gid == gid) break;
    fclose(file);
    if (error == 0) return NSS_STATUS_SUCCESS;
    if (error != ERANGE) return NSS_STATUS_NOTFOUND;
    *errnop = ERANGE;
    return NSS_STATUS_TRYAGAIN;
}

enum nss_status FUNCTION(getgrgid_r)(gid_t gid, struct group *result, char *buffer, size_t length, int *errnop)
{
    return group_entry(NULL, gid, result, buffer, length, errnop);
}

enum nss_status FUNCTION(getgrnam_r)(const char *name, struct group *result, char *buffer, size_t length, int *errnop)
{
    return group_entry(name, 0, result, buffer, length, errnop);
}

#ifndef WITHOUT_INITGROUPS
enum nss_status FUNCTION(initgroups_dyn)(const char *user, gid_t gid, long *start, long *size, gid_t **groups, long limit,
                                         int *errnop)
{
    static char buffer[1 << 20];
    enum nss_status status = state(errnop, 1);
    if (status != NSS_STATUS_SUCCESS) return status;
    FILE *file = fopen(DIRECTORY "/group", "re");
    if (file == NULL) return NSS_STATUS_NOTFOUND;
    struct group group, *found;
    while (fgetgrent_r(file, &group, buffer, sizeof buffer, &found) == 0) {
        for (char **member = group.gr_mem; *member != NULL; member++) {
            if (strcmp(*member, user) != 0 || group.gr_gid == gid) continue;
            if (*start == *size && limit <= 0) {
                *size *= 2;
                *groups = realloc(*groups, (size_t)*size * sizeof **groups);
            }
            (*groups)[(*start)++] = group.gr_gid;
        }
    }
    fclose(file);
    return NSS_STATUS_SUCCESS;
}
#else
static FILE *listed;

enum nss_status FUNCTION(setgrent)(int stay_open)
{
    (void)stay_open;
    int error;
    enum nss_status status = state(&error, 1);
    if (status != NSS_STATUS_SUCCESS) return status;
    listed = fopen(DIRECTORY "/group", "re");
    return listed == NULL ? NSS_STATUS_UNAVAIL : NSS_STATUS_SUCCESS;
}

enum nss_status FUNCTION(getgrent_r)(struct group *result, char *buffer, size_t length, int *errnop)
{
    struct group *found;
    long position = ftell(listed);
    int error = fgetgrent_r(listed, result, buffer, length, &found);
    if (error == 0) return NSS_STATUS_SUCCESS;
    if (error != ERANGE) return NSS_STATUS_NOTFOUND;
    fseek(listed, position, SEEK_SET);
    *errnop = ERANGE;
    return NSS_STATUS_TRYAGAIN;
}

enum nss_status FUNCTION(endgrent)(void)
{
    fclose(listed);
    return NSS_STATUS_SUCCESS;
}
#endif

/* The module of subordinate uids (libsubid_SERVICE.so of shadow-utils): DIRECTORY/owners has `uid owner` lines. */
int shadow_subid_find_subid_owners(unsigned long id, int type, uid_t **uids, int *count)
{
    (void)type;
    *uids = NULL;
    *count = 0;
    if (is("away")) return 2;
    FILE *file = fopen(DIRECTORY "/owners", "re");
    if (file == NULL) return 3;
    unsigned long uid;
    unsigned int owner;
    *uids = calloc(64, sizeof **uids);
    while (*count < 64 && fscanf(file, "%lu %u", &uid, &owner) == 2)
        if (uid == id) (*uids)[(*count)++] = owner;
    fclose(file);
    return 0;
}
