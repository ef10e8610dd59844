import { isRecord } from './peer.ts';
import type { QmpClient } from './qmp.ts';
import type { QtestClient } from './qtest.ts';

/**
 * Has the machine's disks finish what they were asked for: QEMU waits for that when a machine is stopped. A device whose
 * bus mastering is off begins nothing new, so that afterwards it reads and writes no memory.
 *
 * @param timeout Milliseconds that a slow disk may take; QEMU answers nobody meanwhile. Afterwards it is taken for hung.
 */
export function finishRequests(qmp: QmpClient, qtest: QtestClient, timeout: number): Promise<void> {
  return qtest.withPatience(async () => {
    const running = await qmp.query('query-status', {}, (answer) =>
      isRecord(answer) && typeof answer['running'] === 'boolean' ? answer['running'] : undefined,
    );
    if (!running) return;
    await qmp.execute('stop', {}, timeout);
    await qmp.execute('cont');
  });
}
