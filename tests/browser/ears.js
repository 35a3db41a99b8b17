// Everything that is connected to a loudspeaker is connected to an analyser, too. It notes what it hears, as
// peak and pitch, 20 times a second; `sound()` gives the samples of the last moment.
const connect = AudioNode.prototype.connect;
const ears = [];
window.heard = [];
AudioNode.prototype.connect = function (to, ...rest) {
  if (to instanceof AudioDestinationNode && !ears.some((ear) => ear.context === this.context)) {
    ears.push(new AnalyserNode(this.context, { fftSize: 4096 }));
  }
  const ear = ears.find((ear) => ear.context === to.context);
  if (to instanceof AudioDestinationNode && this !== ear) connect.call(this, ear);
  return connect.call(this, to, ...rest);
};
window.sound = () => ears.map((ear) => {
  const samples = new Float32Array(ear.fftSize);
  ear.getFloatTimeDomainData(samples);
  return samples;
});
setInterval(() => ears.forEach((ear, i) => {
  const samples = sound()[i];
  const turns = [];
  for (let n = 1; n < samples.length; n++) {
    if (samples[n - 1] < 0 && samples[n] >= 0) turns.push(n - samples[n] / (samples[n] - samples[n - 1]));
  }
  const span = (turns.at(-1) - turns[0]) / ear.context.sampleRate;
  const peak = samples.reduce((most, sample) => Math.max(most, Math.abs(sample)), 0);
  const hz = turns.length > 9 ? (turns.length - 1) / span : 0;
  if (ear.context.state === "running") heard.push({ peak, hz });
}), 50);
window.isHeard = (pitch) => heard.some(({ hz, peak }) => Math.abs(hz - pitch) < 3 && peak > 0.01);
window.isSteady = () => heard.length > 12 && heard.slice(-12).every(({ peak }) => peak > 0.01);
window.isSilent = () => heard.length > 6 && heard.slice(-6).every(({ peak }) => peak < 0.01);
