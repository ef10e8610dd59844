/** Common parts of the QMP and qtest clients. Both validate everything that the peer sends. */

/** Events that a client reports to its machine. */
export interface PeerEvents {
  /** QEMU did not reply in time. */
  readonly onHang: (message: string) => void;
  /** QEMU violated its protocol. The client ignores all further data. */
  readonly onBroken: (message: string) => void;
  /** QEMU closed the connection, which also happens when it exits. */
  readonly onClosed: () => void;
}

/** Maximum characters of a quoted line. */
const QUOTE_LIMIT = 80;

/** Formats a line for a message: truncated, control characters escaped. */
export function quote(line: string): string {
  return JSON.stringify(line.length > QUOTE_LIMIT ? `${line.slice(0, QUOTE_LIMIT)}...` : line);
}

/** True for a parsed JSON object. */
export function isRecord(value: unknown): value is Readonly<Record<string, unknown>> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}
