/**
 * Converts records of /dev/kmsg to lines in the format of `dmesg` (Documentation/ABI/testing/dev-kmsg).
 *
 *     6,339,5140900,-;NET: Registered PF_INET6        priority, number, microseconds, flags; message
 *      SUBSYSTEM=pci                                   continuation lines begin with a space; omitted
 */
export function formatKernelLog(records: string): string {
  const lines: string[] = [];
  for (const record of records.split('\n')) {
    const match = /^\d+,\d+,(\d+),[^;]*;(.*)$/.exec(record);
    if (match === null) continue;
    const seconds = (Number(match[1]) / 1e6).toFixed(6).padStart(12);
    const text = match[2]!.replace(/\\x([0-9a-f]{2})/g, (_, code: string) => String.fromCharCode(parseInt(code, 16)));
    lines.push(`[${seconds}] ${text}\n`);
  }
  return lines.join('');
}
