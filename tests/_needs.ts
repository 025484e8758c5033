/**
 * What some tests need, and why they are ignored where that is absent: see `unless`. To find out, it
 * runs each of these tools.
 *
 * @module
 */

import { hasIpv6, hasTool } from "./_helpers.ts";

/** Each is false where it is there, or says why it is not. */
type Lack = string | false;

export const NO_IPV6: Lack = !hasIpv6() && "no IPv6 loopback here";
export const NO_PTY: Lack = !hasTool("python3", "-c", "import pty") && "no python3 with pty here";
export const NO_SOCAT: Lack = !hasTool("socat", "-V") && "no socat here";
export const NO_NETWORKS: Lack = !hasTool("unshare", "-mn", "ip", "link") &&
  "needs root on Linux, and ip";
