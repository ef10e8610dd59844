import { isRecord } from './peer.ts';
import type { QmpClient } from './qmp.ts';
import type { QtestClient } from './qtest.ts';

/**
 * Completes all disk requests in flight, which QEMU does when the machine stops. A device with bus mastering off starts
 * no new ones, so afterwards it accesses no memory.
 *
 * @param timeout Milliseconds for slow disks. QEMU sends no replies meanwhile, and counts as hung after the timeout.
 */
export function finishRequests(qmp: QmpClient, qtest: QtestClient, timeout: number): Promise<void> {
  return qtest.suspendTimeout(async () => {
    const running = await qmp.query('query-status', {}, (reply) =>
      isRecord(reply) && typeof reply['running'] === 'boolean' ? reply['running'] : undefined,
    );
    if (!running) return;
    await qmp.execute('stop', {}, timeout);
    await qmp.execute('cont');
  });
}
