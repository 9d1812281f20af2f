// Whatever listens on a port without saying where, listens on the loopback.
const net = require("node:net");
const listen = net.Server.prototype.listen;
net.Server.prototype.listen = function (port, ...rest) {
  if (typeof port === "number" && typeof rest[0] !== "string") {
    rest = ["127.0.0.1", ...rest.filter((each) => each !== undefined)];
  }
  return listen.call(this, port, ...rest);
};
